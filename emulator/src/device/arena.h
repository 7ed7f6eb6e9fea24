// The memory of all emulated devices and its shadows, at fixed distances from one another, so that a check finds what is
// known of an address by arithmetic alone. Everything is reserved once; the kernel gives out pages as they are touched.
//
//   data     the bytes themselves: first the windows of the workers (shared memory), then the devices
//   state    a byte for a byte: not allocated, allocated but never written, written, an mbarrier's
//   units    who last accessed each 16 bytes, as long as everyone accessed all 16 (races.h)
//   cells    the same for the bytes inside a unit, once someone accessed less
//   owners   the allocation that each 512 bytes belong to
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "profile.h"

namespace emulator {

enum State : uint8_t { kDead = 0, kPoison = 1, kWritten = 2, kMbarrier = 3 };

struct Cell {
    uint64_t write, read, other_read;  // stamps of the last accesses; other_read is of another thread than read
};
struct Unit {
    uint64_t header;
    Cell cell;
};

constexpr size_t kUnitBytes = 16;
constexpr size_t kCellsPerUnit = 15;  // the cell of byte 0 is in the unit
constexpr size_t kOwnerBytes = 512;
constexpr size_t kWorkers = 512;
constexpr size_t kWindowBytes = size_t(8) << 20;
constexpr size_t kStaticWindow = size_t(1) << 20;  // where the shadow of static shared memory begins in a window

struct Arena {
    uintptr_t base;
    size_t bytes;
    size_t device_begin[kProfileCount], device_end[kProfileCount];
    uint8_t* state;
    Unit* units;
    Cell* cells;
    uint32_t* owners;
};
extern Arena arena;

// Reserves it at the first call. False where the machine does not let us.
bool reserve_arena();
inline size_t window_offset(size_t worker) { return worker * kWindowBytes; }

}  // namespace emulator
