#include "races.h"
#include "launch.h"

namespace emulator {

unsigned prepare_unit(Cta* c, Unit* unit, Cell* cells, unsigned width) {
    // Several CTAs may come here at once: one changes the unit, the others wait.
    uint64_t header = __atomic_load_n(&unit->header, __ATOMIC_ACQUIRE);
    while (true) {
        if (header == kBusy) {
            header = __atomic_load_n(&unit->header, __ATOMIC_ACQUIRE);
            continue;
        }
        if (header >> 8 == c->launch_base && (header & 255) <= width) return header & 255;
        if (__atomic_compare_exchange_n(&unit->header, &header, kBusy, false, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) break;
    }
    const auto cell = [&](unsigned at) -> Cell& { return at == 0 ? unit->cell : cells[at - 1]; };
    if (header >> 8 == c->launch_base) {
        // Narrower than before: each part was accessed as the whole was.
        const unsigned old = header & 255;
        for (unsigned at = 0; at < kUnitBytes; at += width) {
            if (at % old != 0) cell(at) = cell(at - at % old);
        }
    } else {
        for (unsigned at = 0; at < kUnitBytes; at += width) cell(at) = Cell{0, 0, 0};
    }
    __atomic_store_n(&unit->header, uint64_t(c->launch_base) << 8 | width, __ATOMIC_RELEASE);
    return width;
}

void report_race(Cta* c, uint64_t other, bool other_was_write, const void* address, unsigned bytes, bool write,
                 const void* pc) {
    FaultPlace fault = {};
    fault.code = kLaunchFailed;
    fault.address = address;
    fault.bytes = bytes;
    fault.write = write;
    fault.pc = pc;
    fault.other = other;
    fault.other_was_write = other_was_write;
    fault.what = "race";
    fail(c, fault);
}

// The lanes of a warp that know what `thread` did before `event`, by synchronisations of parts of the warp.
static unsigned reached_lanes(const Cta* c, unsigned thread, uint32_t event) {
    unsigned reached = 1u << (thread % kWarpSize);
    for (const PartialSync& sync : c->partial) {
        if (sync.warp == thread / kWarpSize && event < sync.event && (sync.mask & reached)) reached |= sync.mask;
    }
    return reached;
}

bool ordered(Cta* c, uint64_t stamp) {
    const unsigned thread = stamp_thread(stamp), warp = c->thread / kWarpSize;
    const unsigned lane_bit = 1u << (c->thread % kWarpSize);
    const uint32_t event = stamp_event(stamp), rank = stamp_serial(stamp) - c->launch_base;
    if (rank == c->rank) {
        if (thread == c->thread || event < c->barrier_event) return true;
        if (thread / kWarpSize == warp) {
            if (event < c->warps[warp].full_event) return true;
            if (reached_lanes(c, thread, event) & lane_bit) return true;
        }
    }
    if (c->known.visible(rank, thread, event)) return true;
    for (const Pending& p : c->pending) {
        if (p.warp == warp && (p.mask & lane_bit) && p.knowledge->visible(rank, thread, event)) return true;
    }
    return false;
}

}  // namespace emulator
