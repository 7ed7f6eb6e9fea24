#include "memory.h"
#include <sys/mman.h>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <vector>
#include "arena.h"
#include "codes.h"

namespace emulator {

constexpr size_t kRedzone = 512;
constexpr size_t kResting = 64;                          // freed ranges that are not given out yet
constexpr size_t kReturnPages = size_t(1) << 20;         // freed ranges from this size on give their pages back
constexpr unsigned char kPoisonByte = 0xff;              // NaN in every float format

struct Heap {
    bool ready = false;
    size_t used = 0;
    std::map<size_t, size_t> free_ranges;  // offset -> bytes
    std::deque<std::pair<size_t, size_t>> resting;
};

static std::mutex mutex;
static Heap heaps[kProfileCount];
static uint64_t allocations_made = 0;
static uint32_t slots_used = 1;  // slot 0 is nobody
static std::vector<uint32_t> free_slots;

Allocation& allocation(uint32_t slot) {
    static Allocation* const table = static_cast<Allocation*>(
        mmap(nullptr, kMaxAllocations * sizeof(Allocation), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    return table[slot];
}

static Heap& heap(int device) {
    Heap& h = heaps[device];
    if (!h.ready) {
        h.ready = true;
        h.free_ranges[arena.device_begin[device]] = arena.device_end[device] - arena.device_begin[device];
    }
    return h;
}

static void give_back(Heap& h, size_t offset, size_t bytes) {
    auto next = h.free_ranges.lower_bound(offset);
    if (next != h.free_ranges.end() && offset + bytes == next->first) {
        bytes += next->second;
        next = h.free_ranges.erase(next);
    }
    if (next != h.free_ranges.begin()) {
        auto before = std::prev(next);
        if (before->first + before->second == offset) {
            before->second += bytes;
            return;
        }
    }
    h.free_ranges[offset] = bytes;
}

static bool take(Heap& h, size_t bytes, size_t* offset) {
    for (auto range = h.free_ranges.begin(); range != h.free_ranges.end(); ++range) {
        if (range->second < bytes) continue;
        *offset = range->first;
        const size_t rest = range->second - bytes;
        h.free_ranges.erase(range);
        if (rest) h.free_ranges[*offset + bytes] = rest;
        return true;
    }
    return false;
}

static size_t footprint(size_t bytes) { return (bytes + kOwnerBytes - 1) / kOwnerBytes * kOwnerBytes + kRedzone; }

int allocate(int device, size_t bytes, uint64_t* address) {
    if (bytes == 0) return kInvalidValue;
    const std::lock_guard<std::mutex> lock(mutex);
    Heap& h = heap(device);
    if (bytes > profile(device).memory_bytes - h.used) return kOutOfMemory;
    const size_t whole = footprint(bytes);
    size_t offset = 0;
    while (!take(h, whole, &offset)) {
        if (h.resting.empty()) return kOutOfMemory;
        give_back(h, h.resting.front().first, h.resting.front().second);
        h.resting.pop_front();
    }
    uint32_t slot = slots_used;
    if (!free_slots.empty()) {
        slot = free_slots.back();
        free_slots.pop_back();
    } else if (++slots_used >= kMaxAllocations) {
        return kOutOfMemory;
    }
    Allocation& a = allocation(slot);
    a.offset = offset;
    a.bytes = bytes;
    a.number = ++allocations_made;
    a.owner = &control();
    a.device = device;
    a.loaded = 0;
    a.stored = 0;
    for (size_t at = offset; at < offset + bytes; at += kOwnerBytes) arena.owners[at / kOwnerBytes] = slot;
    std::memset(arena.state + offset, kPoison, bytes);
    std::memset(reinterpret_cast<void*>(arena.base + offset), kPoisonByte, bytes);
    h.used += bytes;
    a.owner->live_allocations++;
    a.owner->live_bytes += static_cast<int64_t>(bytes);
    *address = arena.base + offset;
    return kSuccess;
}

static uint32_t slot_at(uint64_t address) {
    const uint64_t offset = address - arena.base;
    return offset < arena.bytes ? arena.owners[offset / kOwnerBytes] : 0;
}

int release(uint64_t address) {
    const std::lock_guard<std::mutex> lock(mutex);
    const uint32_t slot = slot_at(address);
    Allocation& a = allocation(slot);
    if (slot == 0 || !a.owner || arena.base + a.offset != address) return kInvalidValue;
    const size_t whole = footprint(a.bytes);
    std::memset(arena.state + a.offset, kDead, a.bytes);
    if (a.bytes >= kReturnPages) {
        // Offsets are whole multiples of 512: round inwards to pages, in each plane.
        const auto drop = [](void* begin, size_t bytes) {
            const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + 4095) & ~uintptr_t(4095);
            const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + bytes) & ~uintptr_t(4095);
            if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
        };
        const size_t unit = a.offset / kUnitBytes, units = a.bytes / kUnitBytes;
        drop(reinterpret_cast<void*>(arena.base + a.offset), a.bytes);
        drop(arena.state + a.offset, a.bytes);
        drop(arena.units + unit, units * sizeof(Unit));
        drop(arena.cells + unit * kCellsPerUnit, units * kCellsPerUnit * sizeof(Cell));
    }
    for (size_t at = a.offset; at < a.offset + a.bytes; at += kOwnerBytes) arena.owners[at / kOwnerBytes] = 0;
    Heap& h = heap(a.device);
    h.used -= a.bytes;
    h.resting.emplace_back(a.offset, whole);
    if (h.resting.size() > kResting) {
        give_back(h, h.resting.front().first, h.resting.front().second);
        h.resting.pop_front();
    }
    a.owner->live_allocations--;
    a.owner->live_bytes -= static_cast<int64_t>(a.bytes);
    a.owner = nullptr;
    free_slots.push_back(slot);
    return kSuccess;
}

void memory_info(int device, size_t* free_bytes, size_t* total_bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    *total_bytes = profile(device).memory_bytes;
    *free_bytes = *total_bytes - heap(device).used;
}

Allocation* find_allocation(uint64_t address, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    const uint32_t slot = slot_at(address);
    Allocation& a = allocation(slot);
    if (slot == 0 || !a.owner) return nullptr;
    const uint64_t begin = arena.base + a.offset;
    return address >= begin && address + bytes <= begin + a.bytes ? &a : nullptr;
}

std::vector<Extent> live_extents(int device) {
    const std::lock_guard<std::mutex> lock(mutex);
    std::vector<Extent> extents;
    for (uint32_t slot = 1; slot < slots_used && slot < kMaxAllocations; slot++) {
        const Allocation& a = allocation(slot);
        if (a.owner && a.device == device) extents.push_back({a.offset, a.bytes});
    }
    return extents;
}

void describe_address(uint64_t address, char* text, size_t text_bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    const uint64_t offset = address - arena.base;
    if (offset >= arena.bytes || offset < arena.device_begin[0]) {
        std::snprintf(text, text_bytes, "no device memory");
        return;
    }
    // Past an end, the owner is the allocation before; before a beginning, the one after. The nearest is meant.
    const Allocation* nearest = nullptr;
    uint64_t least = ~uint64_t(0);
    for (const uint64_t at : {offset, offset - kOwnerBytes, offset + kOwnerBytes}) {
        const uint32_t slot = at < arena.bytes ? arena.owners[at / kOwnerBytes] : 0;
        const Allocation& a = allocation(slot);
        if (slot == 0 || !a.owner) continue;
        const uint64_t end = a.offset + a.bytes;
        const uint64_t distance = offset < a.offset ? a.offset - offset : offset < end ? 0 : offset - end + 1;
        if (distance >= least) continue;
        least = distance;
        nearest = &a;
    }
    if (nearest) {
        const long long at = static_cast<long long>(offset) - static_cast<long long>(nearest->offset);
        std::snprintf(text, text_bytes, "byte %lld of allocation %llu (%zu bytes on device %d)", at,
                      static_cast<unsigned long long>(nearest->number), nearest->bytes, nearest->device);
        return;
    }
    std::snprintf(text, text_bytes, "no live allocation");
}

}  // namespace emulator
