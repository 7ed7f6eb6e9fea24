// A CTA in flight: its threads as fibers of one OS thread, its windows of memory, its clocks.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <condition_variable>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>
#include "arena.h"
#include "banks.h"
#include "cuda_emulator/abi.h"
#include "fiber.h"
#include "knowledge.h"
#include "mbarrier.h"
#include "random.h"

namespace emulator {

struct Cluster;
struct Launch;

// A stamp says who and when: the CTA's serial number, the thread in it, the CTA's count of synchronisations.
constexpr unsigned kThreadShift = 22;
constexpr uint32_t kMaxEvent = (1u << kThreadShift) - 1;
inline uint64_t stamp(uint32_t serial, unsigned thread, uint32_t event) {
    return uint64_t(serial) << 32 | uint64_t(thread) << kThreadShift | event;
}
inline uint32_t stamp_serial(uint64_t stamp) { return static_cast<uint32_t>(stamp >> 32); }
inline unsigned stamp_thread(uint64_t stamp) { return static_cast<unsigned>(stamp >> kThreadShift) & 1023u; }
inline uint32_t stamp_event(uint64_t stamp) { return static_cast<uint32_t>(stamp) & kMaxEvent; }

// kOutside: for what another CTA does, or a store on its way.
enum class Wait : uint8_t { kReady, kBlockBarrier, kCollective, kOutside, kExited };

struct Fiber {
    void* stack_pointer;
    Wait wait;
    uint8_t kind;  // of the collective it waits in
    unsigned mask, source;
    uint64_t value;
    unsigned position[3];
    // The launch's progress when it last looked at what others may change; how often it has looked since that moved; what
    // it looked at and saw, and how often that was the same.
    uint64_t seen;
    unsigned looks, repeats;
    const void* polled;
    bool polled_acquires;
    unsigned polled_value;
    uint64_t polled_version;
    // Whether it is between cluster_arrive and cluster_wait, and the phase of the cluster's barrier that it arrived in.
    bool arrived_at_cluster;
    uint64_t cluster_phase;
    // Whether the launches before this one may still run, for all that it knows.
    bool is_early;
};

struct WarpState {
    uint32_t full_event;  // the last synchronisation of all its live lanes
    uint32_t exited;      // lanes that returned, or never were
    uint64_t cluster_phases;  // phases of the cluster's barrier that its lanes have acquired
};

// A synchronisation of some lanes of a warp, since the last one of all.
struct PartialSync {
    unsigned warp, mask;
    uint32_t event;
};

// The knowledge that a CTA's thread got by an acquire, until a barrier makes it everybody's.
struct Pending {
    unsigned warp, mask;
    std::shared_ptr<const Knowledge> knowledge;
};

struct FaultPlace {
    int code;
    const void* address;
    unsigned bytes;
    bool write;
    const void* pc;
    uint64_t other;  // the stamp that an access raced with; 0: none
    bool other_was_write;
    uint64_t actor;  // the stamp of the access, where it is not the running thread's; 0: it is
    const char* what;
};

struct Cta {
    // Read at every access. The running thread may touch `global_bytes`: all, or nothing before grid_dependency_wait.
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
    bool counts_wavefronts;
    // Serial numbers of this launch: one for each CTA, then one for the stores on their way to each.
    uint32_t launch_base, launch_count;
    uint32_t async_rank;  // of the stores on their way to this CTA
    uint32_t barrier_event, event;
    uint32_t thread;

    size_t all_global_bytes;
    Launch* launch;
    size_t worker;
    uint32_t rank;
    Cluster* cluster;
    unsigned cluster_rank;
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
    std::string detail;  // of the fault, beyond what it says of itself

    Knowledge known;
    std::vector<Pending> pending;
    std::vector<uint16_t> outside;  // the threads that wait for others
    bool parked;                    // its OS thread sleeps on `wake`: none of its threads can run by itself
    std::condition_variable wake;

    // Guarded by the launch's mutex, for other CTAs look at them.
    std::deque<Mbarrier> mbarriers;
    std::deque<AsyncStore> incoming;  // stores on their way to this CTA
    // This CTA's alone.
    AsyncStore landing;
    std::unordered_map<size_t, uint64_t> senders;  // who stored last, by unit of the arena, for reports

    uint64_t* traffic;                // by allocation slot: loaded, stored
    std::vector<uint32_t> slots_touched;
    // Where wavefronts are counted: each warp's accesses of shared memory since its lanes last met, and the sums.
    std::vector<SharedAccess> shared_accesses[kMaxThreadsPerBlock / kWarpSize];
    WavefrontCounts wavefronts;
};

// The CTA whose fibers run on this OS thread, null outside of kernels.
extern __thread Cta* current __attribute__((tls_model("initial-exec")));

inline Fiber& running(Cta* c) { return c->fibers[c->thread]; }

// A new moment in the CTA: what was stamped before is older.
uint32_t advance(Cta* c);
// Whether what was stamped in this launch happens before the running thread's next access.
bool ordered(Cta* c, uint64_t stamp);

// Runs all threads of CTA `rank` on this OS thread.
void run_cta(Cta* c, Launch* launch, uint32_t rank, Cluster* cluster);
// Goes on with the next thread that can run, once the running one waits; returns when that is ready again. If none can
// ever run, the launch fails.
void block(Cta* c);
void push_ready(Cta* c, unsigned thread);
// Makes `thread` the running one, to act on its behalf.
void enter(Cta* c, unsigned thread);
// Lets another thread of the CTA run; true if there was one.
bool yield_fiber(Cta* c);
// Lanes of a thread's warp that wait for it only can go on: it has exited.
void collectives_after_exit(Cta* c);
// All live threads are at the block barrier.
void release_barrier(Cta* c);
// A collective of the lanes in `mask`, the running thread's among them.
uint64_t warp_collective(Cta* c, unsigned kind, unsigned mask, uint64_t value, unsigned source);
// Ends the CTA from inside a fiber.
[[noreturn]] void fail(Cta* c, const FaultPlace& fault);
[[noreturn]] void fail(Cta* c, int code, const char* what);
[[noreturn]] void fault_at(Cta* c, int code, uintptr_t address, unsigned bytes, bool write, const void* pc,
                           const char* what);
[[noreturn]] void abandon(Cta* c);

}  // namespace emulator
