#include "wait.h"
#include "cluster.h"
#include "codes.h"
#include "launch.h"

namespace emulator {

// The same word with the same value so many times, and no barrier between: that is a loop around it.
constexpr unsigned kRepeatsUntilWait = 16;
// A loop may look at many words in turn. So many looks, and nothing has happened: it waits as well.
constexpr unsigned kLooksUntilYield = 64;
constexpr unsigned kLooksUntilWait = 1 << 16;

void rouse(Launch& l, Cta* c) {
    if (!c->parked) return;
    c->parked = false;
    l.parked--;
    c->wake.notify_one();
}

void moved(Launch& l) {
    l.progress++;
    if (l.parked == 0) return;
    for (Cta* c : l.running) rouse(l, c);
}

void wait_outside(Cta* c) {
    Fiber& me = running(c);
    if (me.wait == Wait::kReady) {
        me.wait = Wait::kOutside;
        c->outside.push_back(static_cast<uint16_t>(c->thread));
    }
    block(c);
    if (c->launch->aborted) abandon(c);
}

void look(Cta* c, bool again) {
    Fiber& me = running(c);
    me.repeats = again ? me.repeats + 1 : 0;
    me.looks = me.seen == c->launch->progress ? me.looks + 1 : 0;
    if (me.repeats >= kRepeatsUntilWait || me.looks >= kLooksUntilWait) {
        wait_outside(c);
    } else if (again || me.looks % kLooksUntilYield == 1) {
        yield_fiber(c);
    }
    if (c->launch->aborted) abandon(c);
}

// The events that everybody waits for. The launch is locked.
static std::string describe(const Launch& l) {
    std::string text;
    unsigned told = 0;
    for (const Cta* c : l.running) {
        char mbarriers[400] = "";
        describe_mbarriers(c, mbarriers, sizeof(mbarriers));
        if (mbarriers[0] == 0) continue;
        if (++told > 4) break;
        text += "; CTA " + std::to_string(c->rank) + mbarriers;
    }
    return text;
}

static const char* deadlock(const Launch& l) {
    if (l.cooperative) return "deadlock: every CTA spins on a word, or waits for what nobody will do";
    if (l.cluster_size > 1) {
        return "deadlock: every CTA of the cluster waits for what none of them will do; other clusters may never run, "
               "for the launch is not cooperative";
    }
    return "deadlock: a CTA waits for what no thread of it will do; another, in a launch that is not cooperative, may "
           "never start";
}

// The CTAs for whom there is something new to see. The launch is locked.
static void wake_outside(Cta* c) {
    size_t kept = 0;
    for (const uint16_t thread : c->outside) {
        if (c->fibers[thread].seen == c->launch->progress) {
            c->outside[kept++] = thread;
        } else {
            push_ready(c, thread);
        }
    }
    c->outside.resize(kept);
}

void look_around(Cta* c) {
    if (c->outside.empty() && c->cluster->size == 1) return;
    land_some(c);
    const std::lock_guard<std::mutex> lock(c->launch->mutex);
    wake_outside(c);
}

void park(Cta* c) {
    Launch& l = *c->launch;
    const char* dead = nullptr;
    while (!dead) {
        {
            std::unique_lock<std::mutex> lock(l.mutex);
            if (!l.aborted) {
                wake_outside(c);
                if (c->ready_count > 0) return;
                if (c->incoming.empty()) {
                    if (l.parked + 1 == l.unfinished) {
                        dead = deadlock(l);
                        c->detail = describe(l);
                    } else {
                        c->parked = true;
                        l.parked++;
                        c->wake.wait(lock, [c] { return !c->parked; });
                    }
                }
            }
        }
        if (l.aborted) abandon(c);
        if (!dead) land_one(c);
    }
    fail(c, kLaunchFailed, dead);
}

}  // namespace emulator
