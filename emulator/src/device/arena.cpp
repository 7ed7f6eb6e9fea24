#include "arena.h"
#include <sys/mman.h>

namespace emulator {

Arena arena;

static void* reserve(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : at;
}

static bool reserve_all() {
    size_t offset = kWorkers * kWindowBytes;
    for (int i = 0; i < kProfileCount; i++) {
        // Redzones and freed memory that rests for a while take room: an address space larger than the memory.
        arena.device_begin[i] = offset;
        offset += profile(i).memory_bytes * 2;
        arena.device_end[i] = offset;
    }
    arena.bytes = offset;
    arena.base = reinterpret_cast<uintptr_t>(reserve(offset));
    arena.state = static_cast<uint8_t*>(reserve(offset));
    arena.units = static_cast<Unit*>(reserve(offset / kUnitBytes * sizeof(Unit)));
    arena.cells = static_cast<Cell*>(reserve(offset / kUnitBytes * kCellsPerUnit * sizeof(Cell)));
    arena.owners = static_cast<uint32_t*>(reserve(offset / kOwnerBytes * sizeof(uint32_t)));
    return arena.base && arena.state && arena.units && arena.cells && arena.owners;
}

bool reserve_arena() {
    static const bool reserved = reserve_all();
    return reserved;
}

}  // namespace emulator
