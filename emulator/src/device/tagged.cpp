// Sixteen bytes that CTAs exchange through global memory by relaxed accesses, with a tag that says which exchange they are
// of. Who takes a value learns that what its sender did before is over, and sees nothing else of it.
#include <algorithm>
#include <cstring>
#include "codes.h"
#include "interface.h"
#include "launch.h"
#include "races.h"
#include "sync.h"
#include "wait.h"

namespace emulator {

constexpr unsigned kSlotBytes = 16;

// Whether what `stamp` tells of is over, for all that the running thread knows.
static bool over(Cta* c, uint64_t stamp) {
    if (ordered(c, stamp)) return true;
    const uint32_t rank = stamp_serial(stamp) - c->launch_base;
    const auto knows = [&](const Knowledge& k) { return k.executed(rank, stamp_thread(stamp), stamp_event(stamp)); };
    if (knows(c->known)) return true;
    const unsigned warp = c->thread / kWarpSize, lane_bit = 1u << (c->thread % kWarpSize);
    return std::any_of(c->pending.begin(), c->pending.end(), [&](const Pending& p) {
        return p.warp == warp && (p.mask & lane_bit) && knows(*p.knowledge);
    });
}

// The fault of an access to a slot; `what` is null where there is none. The launch is locked while it is found, and may not
// be when it is reported.
struct Wrong {
    const char* what = nullptr;
    uint64_t other = 0;  // the stamp of the access that it raced with
    bool other_was_write = false;
};

static Wrong race(uint64_t other, bool was_write) { return {"race", other, was_write}; }

static void report(Cta* c, const Wrong& wrong, const void* slot, bool write, const void* pc) {
    if (!wrong.what) return;
    if (wrong.other) report_race(c, wrong.other, wrong.other_was_write, slot, kSlotBytes, write, pc);
    fault_at(c, kLaunchFailed, reinterpret_cast<uintptr_t>(slot), kSlotBytes, write, pc, wrong.what);
}

// Checks the slot's last plain accesses, and where `notes` makes this one the last. Accesses of this kind by others are the
// slot's own matter.
static Wrong check_plain(Cta* c, const TaggedSlot& slot, const void* address, bool write, bool notes) {
    const size_t index = (reinterpret_cast<uintptr_t>(address) - arena.base) / kUnitBytes;
    Unit* unit = arena.units + index;
    Cell* cells = arena.cells + index * kCellsPerUnit;
    const unsigned width = prepare_unit(c, unit, cells, kSlotBytes);
    const auto is_taken = [&](uint64_t stamp) {
        return std::find(slot.readers.begin(), slot.readers.end(), stamp) != slot.readers.end();
    };
    for (unsigned at = 0; at < kSlotBytes; at += width) {
        Cell& cell = at == 0 ? unit->cell : cells[at - 1];
        const uint64_t last = relaxed(cell.write);
        if (last != 0 && last != slot.writer && !before(c, last, true)) return race(last, true);
        const uint64_t reads[] = {relaxed(cell.read), relaxed(cell.other_read)};
        for (const uint64_t read : reads) {
            if (write && read != 0 && !is_taken(read) && !before(c, read, true)) return race(read, false);
        }
        if (!notes) continue;
        relaxed(&cell.other_read, write ? 0 : reads[0]);
        relaxed(&cell.read, write ? 0 : c->stamp);
        if (write) relaxed(&cell.write, c->stamp);
    }
    return {};
}

// Checks a store, and makes it the slot's last.
static Wrong note_store(Cta* c, TaggedSlot& slot, const void* address, unsigned tag) {
    const Wrong plain = check_plain(c, slot, address, true, true);
    if (plain.what) return plain;
    if (static_cast<const unsigned*>(address)[3] == tag) return {"a tag that the slot has already, and whoever waits for it takes"};
    // Two writers need an order of their own: what a reader has seen of one gives them none.
    if (slot.writer && !ordered(c, slot.writer)) return race(slot.writer, true);
    for (const uint64_t reader : slot.readers) {
        if (!over(c, reader)) return race(reader, false);
    }
    auto knowledge = std::make_shared<Knowledge>();
    knowledge->add_executed(published(c));
    slot.knowledge = std::move(knowledge);
    slot.writer = c->stamp;
    slot.readers.clear();
    slot.tags.push_back(tag);
    return {};
}

// Checks a load that found `found` and wants `tag`.
static Wrong note_load(Cta* c, TaggedSlot& slot, const void* address, unsigned found, unsigned tag) {
    const bool takes = found == tag;
    const Wrong plain = check_plain(c, slot, address, false, takes); // what is not taken may be stored over
    if (plain.what) return plain;
    const bool was_stored = std::find(slot.tags.begin(), slot.tags.end(), tag) != slot.tags.end();
    if (takes && !was_stored) return {"a tag that is left from an earlier launch"};
    if (!takes && was_stored) return {"a tagged value that was stored over before it was read"};
    if (takes) {
        slot.readers.push_back(c->stamp);
        learn(c, 1u << (c->thread % kWarpSize), slot.knowledge);
    }
    return {};
}

static void store_tagged(Cta* c, void* slot, const unsigned* words, const void* pc) {
    check_atomic(c, slot, kSlotBytes, true, pc);
    Launch& l = *c->launch;
    Wrong wrong;
    {
        const std::lock_guard<std::mutex> lock(l.mutex);
        if (c->races) wrong = note_store(c, l.tagged[reinterpret_cast<uintptr_t>(slot)], slot, words[3]);
        std::memcpy(slot, words, kSlotBytes);
        moved(l);
    }
    report(c, wrong, slot, true, pc);
    advance(c);
}

// A load in a loop waits until something has happened.
static void load_tagged(Cta* c, const void* slot, unsigned tag, unsigned* words, const void* pc) {
    check_atomic(c, slot, kSlotBytes, false, pc);
    Launch& l = *c->launch;
    Fiber& me = running(c);
    const bool polls = me.polled == slot && !me.polled_acquires;
    look(c, polls && me.polled_value == __atomic_load_n(static_cast<const unsigned*>(slot) + 3, __ATOMIC_ACQUIRE));
    Wrong wrong;
    {
        const std::lock_guard<std::mutex> lock(l.mutex);
        me.seen = l.progress;
        std::memcpy(words, slot, kSlotBytes);
        if (c->races) wrong = note_load(c, l.tagged[reinterpret_cast<uintptr_t>(slot)], slot, words[3], tag);
    }
    report(c, wrong, slot, false, pc);
    me.polled = words[3] == tag ? nullptr : slot;
    me.polled_acquires = false;
    me.polled_value = words[3];
}

static unsigned long long exchange(Cta* c, unsigned long long* word, bool adds, unsigned long long value, const void* pc) {
    check_atomic(c, word, 8, true, pc);
    const std::lock_guard<std::mutex> lock(c->launch->mutex);
    const unsigned long long old = *word;
    *word = adds ? old + value : value;
    moved(*c->launch);
    running(c).polled = nullptr;
    return old;
}

}  // namespace emulator

using emulator::current;

EMULATOR_EXPORT void emulator_store_tagged(void* slot, const unsigned* words) {
    if (current) emulator::store_tagged(current, slot, words, __builtin_return_address(0));
}

EMULATOR_EXPORT void emulator_load_tagged(const void* slot, unsigned tag, unsigned* words) {
    if (current) emulator::load_tagged(current, slot, tag, words, __builtin_return_address(0));
}

EMULATOR_EXPORT unsigned long long emulator_atomic_add_relaxed(unsigned long long* word, unsigned long long value) {
    return current ? emulator::exchange(current, word, true, value, __builtin_return_address(0)) : 0;
}

EMULATOR_EXPORT void emulator_store_relaxed(unsigned long long* word, unsigned long long value) {
    if (current) emulator::exchange(current, word, false, value, __builtin_return_address(0));
}
