// The hooks that the thread sanitizer's pass puts before every load and store of a kernel.
#include <cstring>
#include "codes.h"
#include "cta.h"
#include "interface.h"
#include "launch.h"
#include "races.h"
#include "sync.h"

namespace emulator {

// The executable's image: constants that a kernel may read. The linker defines these in every object; those of the
// executable are what launches give us (launch.cpp).
extern uintptr_t image_begin, image_end;

__attribute__((noinline, cold)) void fault_at(Cta* c, int code, uintptr_t address, unsigned bytes, bool write,
                                              const void* pc, const char* what) {
    FaultPlace fault = {};
    fault.code = code;
    fault.address = reinterpret_cast<const void*>(address);
    fault.bytes = bytes;
    fault.write = write;
    fault.pc = pc;
    fault.what = what;
    fail(c, fault);
}

// Global memory that the launches before this one may still change or read.
static void expect_waited(Cta* c, uintptr_t a, unsigned bytes, bool write, const void* pc) {
    if (a - c->global_begin < c->all_global_bytes && running(c).is_early) {
        fault_at(c, kLaunchFailed, a, bytes, write, pc,
                 "access to global memory before grid_dependency_wait, in a launch that may begin before the last one ends");
    }
}

// Neither global nor shared memory: the thread's stack, the parameters, constants; anything else is nobody's.
static void access_elsewhere(Cta* c, uintptr_t a, unsigned bytes, bool write, const void* pc) {
    expect_waited(c, a, bytes, write, pc);
    if (a - reinterpret_cast<uintptr_t>(c->launch->argument_bytes.data()) < c->launch->argument_bytes.size()) return;
    if (a - reinterpret_cast<uintptr_t>(c->launch->arguments.data()) <
        c->launch->arguments.size() * sizeof(void*)) return;
    if (!write && a - image_begin < image_end - image_begin) return;
    fault_at(c, kIllegalAddress, a, bytes, write, pc, "access outside of device memory");
}

static __attribute__((noinline, cold)) void bad_state(Cta* c, const uint8_t* state, uintptr_t a, unsigned bytes,
                                                      bool write, const void* pc) {
    if (std::memchr(state, kMbarrier, bytes)) {
        fault_at(c, kLaunchFailed, a, bytes, write, pc, "plain access to an mbarrier");
    }
    if (std::memchr(state, kDead, bytes)) {
        fault_at(c, kIllegalAddress, a, bytes, write, pc,
                 a - c->global_begin < c->global_bytes ? "access out of bounds of every live allocation"
                                                       : "access out of bounds of shared memory");
    }
    fault_at(c, kLaunchFailed, a, bytes, write, pc, "read of memory that was never written");
}

static inline __attribute__((always_inline)) bool all_written(const uint8_t* state, unsigned bytes) {
    switch (bytes) {
        case 1: return *state == kWritten;
        case 2: { uint16_t s; std::memcpy(&s, state, 2); return s == 0x0202; }
        case 4: { uint32_t s; std::memcpy(&s, state, 4); return s == 0x02020202; }
        case 8: { uint64_t s; std::memcpy(&s, state, 8); return s == 0x0202020202020202u; }
        case 16: {
            uint64_t s[2];
            std::memcpy(s, state, 16);
            return (s[0] & s[1]) == 0x0202020202020202u && (s[0] | s[1]) == 0x0202020202020202u;
        }
        default:
            for (unsigned i = 0; i < bytes; i++) {
                if (state[i] != kWritten) return false;
            }
            return true;
    }
}

static inline __attribute__((always_inline)) void count(Cta* c, size_t offset, unsigned bytes, bool write) {
    const uint32_t slot = arena.owners[offset / kOwnerBytes];
    uint64_t* counts = c->traffic + 2 * slot;
    if ((counts[0] | counts[1]) == 0) c->slots_touched.push_back(slot);
    counts[write] += bytes;
}

template <bool kAligned>
static inline __attribute__((always_inline)) void access(uintptr_t a, unsigned bytes, bool write, const void* pc) {
    Cta* c = current;
    if (__builtin_expect(!c, 0)) return;
    if (a - c->stack_begin < kStackBytes) return;
    size_t offset, shared_offset = 0;
    bool global = false;
    if (a - c->global_begin < c->global_bytes) {
        offset = a - arena.base;
        global = true;
    } else if (a - c->shared_begin < kStaticWindow) {
        offset = a - arena.base;
        shared_offset = a - c->shared_begin;
    } else if (a - c->static_begin < c->static_bytes) {
        shared_offset = a - c->static_begin;
        offset = shared_offset + c->static_shadow;
        if (write) {
            if (a < c->static_low) c->static_low = a;
            if (a + bytes > c->static_high) c->static_high = a + bytes;
        }
    } else {
        access_elsewhere(c, a, bytes, write, pc);
        return;
    }
    if (kAligned && __builtin_expect((a & (bytes - 1)) != 0, 0)) {
        fault_at(c, kMisalignedAddress, a, bytes, write, pc, "misaligned access");
    }
    uint8_t* state = arena.state + offset;
    if (__builtin_expect(!all_written(state, bytes), 0)) {
        if (!write || std::memchr(state, kDead, bytes) || std::memchr(state, kMbarrier, bytes)) {
            bad_state(c, state, a, bytes, write, pc);
        }
        std::memset(state, kWritten, bytes);
    }
    if (global) {
        count(c, offset, bytes, write);
    } else if (__builtin_expect(c->counts_wavefronts, 0)) {
        note_shared_access(c, shared_offset, bytes, kAligned, pc);
    }
    if (c->races) check_race<kAligned>(c, offset, bytes, global, write, reinterpret_cast<const void*>(a), pc);
}

void check_atomic(Cta* c, const void* address, unsigned bytes, bool write, const void* pc) {
    const uintptr_t a = reinterpret_cast<uintptr_t>(address);
    expect_waited(c, a, bytes, write, pc);
    if (a - c->global_begin >= c->global_bytes) {
        fault_at(c, kIllegalAddress, a, bytes, write, pc, "synchronisation outside of global memory");
    }
    if (a & (bytes - 1)) fault_at(c, kMisalignedAddress, a, bytes, write, pc, "misaligned access");
    uint8_t* state = arena.state + (a - arena.base);
    if (!all_written(state, bytes)) bad_state(c, state, a, bytes, write, pc);
}

}  // namespace emulator

using emulator::access;
using emulator::current;

EMULATOR_EXPORT void emulator_grid_dependency_wait(void) {
    if (!current) return;
    emulator::running(current).is_early = false;
    current->global_bytes = current->all_global_bytes;
}

EMULATOR_EXPORT void emulator_grid_dependency_launch(void) {}

#define EMULATOR_ACCESS(bytes)                                                                             \
    EMULATOR_EXPORT void emulator_read##bytes(void* address) {                                             \
        access<true>(reinterpret_cast<uintptr_t>(address), bytes, false, __builtin_return_address(0));     \
    }                                                                                                      \
    EMULATOR_EXPORT void emulator_write##bytes(void* address) {                                            \
        access<true>(reinterpret_cast<uintptr_t>(address), bytes, true, __builtin_return_address(0));      \
    }
EMULATOR_ACCESS(1)
EMULATOR_ACCESS(2)
EMULATOR_ACCESS(4)
EMULATOR_ACCESS(8)
EMULATOR_ACCESS(16)

EMULATOR_EXPORT void emulator_read_range(void* address, size_t bytes) {
    if (bytes) access<false>(reinterpret_cast<uintptr_t>(address), (unsigned)bytes, false, __builtin_return_address(0));
}

EMULATOR_EXPORT void emulator_write_range(void* address, size_t bytes) {
    if (bytes) access<false>(reinterpret_cast<uintptr_t>(address), (unsigned)bytes, true, __builtin_return_address(0));
}
