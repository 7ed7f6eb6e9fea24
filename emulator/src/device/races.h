// The happens-before check: two accesses to a byte, at least one of them a write, need a barrier or a release and an
// acquire between them.
//
// The last write and the last two reads (of different threads) are kept for each cell. A cell is as wide as the narrowest
// access to its 16 bytes in this launch: a unit's header says how wide, and for which launch.
#pragma once
#include <cstring>
#include "codes.h"
#include "cta.h"

namespace emulator {

constexpr uint64_t kBusy = ~uint64_t(0);

// Makes the cells of a unit at most `width` wide, and returns their width.
unsigned prepare_unit(Cta* c, Unit* unit, Cell* cells, unsigned width);

[[noreturn]] void report_race(Cta* c, uint64_t other, bool other_was_write, const void* address, unsigned bytes,
                              bool write, const void* pc);

inline uint64_t relaxed(const uint64_t& from) { return __atomic_load_n(&from, __ATOMIC_RELAXED); }
inline void relaxed(uint64_t* to, uint64_t value) { __atomic_store_n(to, value, __ATOMIC_RELAXED); }

// Most often: the same thread, or another one before the CTA's last barrier, or an earlier launch.
// Shared memory begins anew with each CTA, whoever had that window before.
inline __attribute__((always_inline)) bool before(Cta* c, uint64_t stamp, bool global) {
    if ((stamp ^ c->stamp) >> kThreadShift == 0) return true;
    const uint32_t relative = stamp_serial(stamp) - c->launch_base;
    if (relative >= c->launch_count || (!global && relative != c->rank && relative != c->async_rank)) return true;
    if (relative == c->rank && stamp_event(stamp) < c->barrier_event) return true;
    return ordered(c, stamp);
}

inline __attribute__((always_inline)) void check_cell(Cta* c, Cell* cell, bool global, const void* address,
                                                      unsigned bytes, bool write, const void* pc) {
    const uint64_t me = c->stamp;
    const uint64_t last_write = relaxed(cell->write);
    const uint64_t last_read = relaxed(cell->read);
    if (write) {
        if (last_write == me && last_read == 0) return;
        if (!before(c, last_write, global)) report_race(c, last_write, true, address, bytes, write, pc);
        if (last_read) {
            if (!before(c, last_read, global)) report_race(c, last_read, false, address, bytes, write, pc);
            const uint64_t other = relaxed(cell->other_read);
            if (other && !before(c, other, global)) report_race(c, other, false, address, bytes, write, pc);
            relaxed(&cell->read, 0);
            relaxed(&cell->other_read, 0);
        }
        relaxed(&cell->write, me);
    } else {
        if (last_read == me) return;
        if (!before(c, last_write, global)) report_race(c, last_write, true, address, bytes, write, pc);
        if (last_read && (last_read ^ me) >> kThreadShift != 0) relaxed(&cell->other_read, last_read);
        relaxed(&cell->read, me);
    }
}

// `offset` and `bytes` lie in one unit.
inline __attribute__((always_inline)) void check_unit(Cta* c, size_t offset, unsigned bytes, unsigned width, bool global,
                                                      bool write, const void* address, const void* pc) {
    const size_t index = offset / kUnitBytes;
    Unit* unit = arena.units + index;
    Cell* cells = arena.cells + index * kCellsPerUnit;
    if (__builtin_expect(__atomic_load_n(&unit->header, __ATOMIC_ACQUIRE) !=
                             (uint64_t(c->launch_base) << 8 | width), 0)) {
        width = prepare_unit(c, unit, cells, width);
    }
    const unsigned first = offset % kUnitBytes;
    for (unsigned at = first; at < first + bytes; at += width) {
        check_cell(c, at == 0 ? &unit->cell : &cells[at - 1], global, address, bytes, write, pc);
    }
}

template <bool kAligned>
inline __attribute__((always_inline)) void check_race(Cta* c, size_t offset, unsigned bytes, bool global, bool write,
                                                      const void* address, const void* pc) {
    if (kAligned) {
        check_unit(c, offset, bytes, bytes, global, write, address, pc);
        return;
    }
    // The widest cells that begin and end where the access does.
    const unsigned width = 1u << __builtin_ctz((unsigned)offset | bytes | kUnitBytes);
    for (size_t at = offset; at < offset + bytes; at += width) {
        check_unit(c, at, width, width, global, write, address, pc);
    }
}

}  // namespace emulator
