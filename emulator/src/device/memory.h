// Allocations of the emulated devices.
#pragma once
#include <atomic>
#include <stddef.h>
#include <stdint.h>
#include <vector>
#include "control.h"

namespace emulator {

constexpr uint32_t kMaxAllocations = 1 << 17;

struct Allocation {
    size_t offset, bytes;
    uint64_t number;  // counts all allocations of the process, so that a report can name one
    Control* owner;   // the host thread that made it; null when the slot is free
    int device;
    std::atomic<uint64_t> loaded, stored;
};

// Both return a Code. Addresses are multiples of 512; the bytes around an allocation belong to nobody.
int allocate(int device, size_t bytes, uint64_t* address);
int release(uint64_t address);

void memory_info(int device, size_t* free_bytes, size_t* total_bytes);
// The allocation that holds all of [address, address + bytes), or null.
Allocation* find_allocation(uint64_t address, size_t bytes);
// A live allocation of a device, whichever host thread made it.
struct Extent {
    size_t offset, bytes;
};
std::vector<Extent> live_extents(int device);
// The allocation of a slot, as in the arena's owners.
Allocation& allocation(uint32_t slot);
// "[0x..., +N) (allocation 12 of 4096 bytes on device 0, offset -16)" for reports.
void describe_address(uint64_t address, char* text, size_t text_bytes);

}  // namespace emulator
