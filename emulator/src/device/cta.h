// A CTA in flight: its threads as fibers of one OS thread, its windows of memory, its clocks.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <atomic>
#include <chrono>
#include <vector>
#include "arena.h"
#include "cuda_emulator/abi.h"
#include "fiber.h"
#include "knowledge.h"
#include "random.h"

namespace emulator {

struct Launch;

// A stamp says who and when: the CTA's serial number, the thread in it, the CTA's count of synchronisations.
constexpr unsigned kThreadShift = 22;
constexpr uint32_t kMaxEvent = (1u << kThreadShift) - 1;
inline uint32_t stamp_serial(uint64_t stamp) { return static_cast<uint32_t>(stamp >> 32); }
inline unsigned stamp_thread(uint64_t stamp) { return static_cast<unsigned>(stamp >> kThreadShift) & 1023u; }
inline uint32_t stamp_event(uint64_t stamp) { return static_cast<uint32_t>(stamp) & kMaxEvent; }

enum class Wait : uint8_t { kReady, kBlockBarrier, kCollective, kExited };

struct Fiber {
    void* stack_pointer;
    Wait wait;
    uint8_t kind;  // of the collective it waits in
    unsigned mask, source;
    uint64_t value;
    unsigned position[3];
    // The last word it acquired, for spins.
    const unsigned* spin_address;
    unsigned spin_value, spin_count;
    uint64_t spin_version;
};

struct WarpState {
    uint32_t full_event;  // the last synchronisation of all its live lanes
    uint32_t exited;      // lanes that returned, or never were
};

// A synchronisation of some lanes of a warp, since the last one of all.
struct PartialSync {
    unsigned warp, mask;
    uint32_t event;
};

// What a CTA's thread learnt by an acquire, until a barrier makes it everybody's.
struct Pending {
    unsigned warp, mask;
    Knowledge knowledge;
};

struct FaultPlace {
    int code;
    const void* address;
    unsigned bytes;
    bool write;
    const void* pc;
    uint64_t other;  // the stamp that an access raced with; 0: none
    bool other_was_write;
    const char* what;
};

struct Cta {
    // Read at every access.
    uintptr_t global_begin;
    size_t global_bytes;
    uintptr_t shared_begin;
    size_t shared_bytes;
    uintptr_t stack_begin;
    uintptr_t static_begin;
    size_t static_bytes;
    size_t static_shadow;  // offset in the arena of what shadows static shared memory
    size_t static_ready;   // bytes of that shadow that are in use
    uintptr_t static_low, static_high;
    uint64_t stamp;
    bool races;
    uint32_t launch_base, launch_count;  // serial numbers of this launch
    uint32_t barrier_event, event;
    uint32_t thread;

    Launch* launch;
    size_t worker;
    uint32_t rank;
    unsigned threads, live, arrived, predicates, last_predicates;
    char* stacks;
    Fiber* fibers;
    void* scheduler;  // the stack pointer of run_cta
    CudaEmulatorPosition position;
    uint16_t ready[kMaxThreadsPerBlock];  // a ring
    unsigned ready_head, ready_count;
    WarpState warps[kMaxThreadsPerBlock / kWarpSize];
    std::vector<PartialSync> partial;
    Random random;
    bool failed;
    FaultPlace fault;

    Knowledge known;
    std::vector<Pending> pending;
    uint64_t watched_progress;
    std::chrono::steady_clock::time_point watched_since;
    std::atomic<uint64_t> stuck_at;  // the launch's progress at which it found itself spinning in vain; 0: it does not

    uint64_t* traffic;                // by allocation slot: loaded, stored
    std::vector<uint32_t> slots_touched;
};

// The CTA whose fibers run on this OS thread, null outside of kernels.
extern __thread Cta* current __attribute__((tls_model("initial-exec")));

inline Fiber& running(Cta* c) { return c->fibers[c->thread]; }

// A new moment in the CTA: what was stamped before is older.
uint32_t advance(Cta* c);
// Whether what was stamped in this launch happens before the running thread's next access.
bool ordered(Cta* c, uint64_t stamp);

// Runs all threads of CTA `rank` on this OS thread.
void run_cta(Cta* c, Launch* launch, uint32_t rank);
// Lets another thread of the CTA run; true if there was one.
bool yield_fiber(Cta* c);
// Ends the CTA from inside a fiber.
[[noreturn]] void fail(Cta* c, const FaultPlace& fault);
[[noreturn]] void fail(Cta* c, int code, const char* what);
[[noreturn]] void abandon(Cta* c);

}  // namespace emulator
