// The closed set of synchronisation primitives: no other code in kernels/ orders memory accesses.
//
//   a thread with itself   copy_async
//   threads of a CTA       __syncthreads and __syncthreads_or, shuffles and votes of whole warps
//   CTAs of a cluster      st_async into each other's shared memory, counted by mbarriers; the cluster barrier, which
//                          lasts from the start to the first exchange, and from the last one to the end
//   CTAs of a grid         store_tagged, load_tagged: sixteen bytes that say which exchange they belong to; the CTAs must be
//                          resident together
//   CTAs of any launch     last_ticket, which nobody waits for
//   launches of a stream   begin_dependent_launch, at the start of every kernel
//
// No volatile, no bare fence. Each primitive cites its section of the PTX ISA.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>
#ifdef __CUDA_EMULATOR__
#include <cuda_emulator.h>
#endif

constexpr uint32_t kWarp = 32;
constexpr uint32_t kFullWarp = 0xffffffffu;

// The dynamic shared memory of the CTA, at least 16-byte aligned.
__device__ __forceinline__ unsigned char* dynamic_shared() {
#ifdef __CUDA_EMULATOR__
    return static_cast<unsigned char*>(cuda_emulator::dynamic_shared());
#else
    extern __shared__ __align__(16) unsigned char shared[];
    return shared;
#endif
}

// Starts a copy of four bytes from global to shared memory, which takes no register while it is under way. The thread
// itself sees them behind copy_async_wait. PTX ISA, "Data Movement and Conversion Instructions: cp.async".
__device__ __forceinline__ void copy_async(float* to, const float* from) {
#ifdef __CUDA_EMULATOR__
    *to = *from;
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
#endif
}

// Waits for all copies that the thread has started. PTX ISA, "cp.async.wait_all".
__device__ __forceinline__ void copy_async_wait() {
#ifndef __CUDA_EMULATOR__
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Takes a ticket: true for the last of `ctas` callers, who sees everything that the others did before theirs. The
// counter is 0 again then, for the next launch. One thread of a CTA calls it, after a __syncthreads.
// PTX ISA, "Parallel Synchronization and Communication Instructions: atom", .inc and .acq_rel.
__device__ __forceinline__ bool last_ticket(uint32_t* ticket, uint32_t ctas) {
#ifdef __CUDA_EMULATOR__
    const uint32_t before = cuda_emulator::atomic_inc_acq_rel(ticket, ctas - 1);
#else
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(__cvta_generic_to_global(ticket)), "r"(ctas - 1)
                 : "memory");
#endif
    return before == ctas - 1;
}

// The value of the lane whose number differs in the bits of `mask`. Every lane of the warp calls it.
__device__ __forceinline__ float shfl_xor(float v, uint32_t mask) { return __shfl_xor_sync(kFullWarp, v, mask); }
__device__ __forceinline__ uint32_t shfl_xor(uint32_t v, uint32_t mask) { return __shfl_xor_sync(kFullWarp, v, mask); }

// Whether this architecture has clusters: from compute capability 9.0 on. Plan launches none on older devices, whose
// code needs only to compile.
#if defined(__CUDA_EMULATOR__) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define BN_HAS_CLUSTERS 1
#else
#define BN_HAS_CLUSTERS 0
#endif

// Waits until the launches before this one in the stream are over, and sees what they did; then lets the next one begin
// where there is room. All threads, before the first access to global memory. The wait is for launches with the attribute
// `programmatic` (launch.cuh): for others the stream has waited.
//
// In this order: a launch of other code behind this one may rely on what came before, and read it before it waits itself.
// PTX ISA, "Parallel Synchronization and Communication Instructions: griddepcontrol".
__device__ __forceinline__ void begin_dependent_launch() {
#ifdef __CUDA_EMULATOR__
    cuda_emulator::grid_dependency_wait();
    cuda_emulator::grid_dependency_launch();
#elif BN_HAS_CLUSTERS
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// A barrier in shared memory that counts bytes. PTX ISA, "mbarrier".
using Mbarrier = unsigned long long;

#if BN_HAS_CLUSTERS && !defined(__CUDA_EMULATOR__)
__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
// The same address in the shared memory of the cluster's CTA of this rank. PTX ISA, "mapa".
__device__ __forceinline__ uint32_t shared_address_of(const void* p, uint32_t rank) {
    uint32_t address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
    return address;
}
#endif

// Arrives at the cluster barrier without waiting, and without ordering what the thread stored before: a release would
// wait for all of it. All threads. With mbarrier_init before it, others see the mbarriers behind their cluster_wait.
// PTX ISA, "barrier.cluster" (.relaxed) and "fence" (.mbarrier_init).
__device__ __forceinline__ void cluster_arrive_relaxed() {
#ifdef __CUDA_EMULATOR__
    cuda_emulator::cluster_arrive_relaxed();
#elif BN_HAS_CLUSTERS
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

// Waits until all CTAs of the cluster have arrived. All threads. PTX ISA, "barrier.cluster".
__device__ __forceinline__ void cluster_wait() {
#ifdef __CUDA_EMULATOR__
    cuda_emulator::cluster_wait();
#elif BN_HAS_CLUSTERS
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Initializes `count` mbarriers for one arrival per phase. One thread, before cluster_arrive_relaxed. PTX ISA, "mbarrier.init"
// and "fence" (.mbarrier_init).
__device__ __forceinline__ void mbarrier_init(Mbarrier* mbarriers, int count) {
    for (int i = 0; i < count; i++) {
#ifdef __CUDA_EMULATOR__
        cuda_emulator::mbarrier_init(&mbarriers[i], 1);
#elif BN_HAS_CLUSTERS
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&mbarriers[i])) : "memory");
#endif
    }
#ifdef __CUDA_EMULATOR__
    cuda_emulator::fence_mbarrier_init();
#elif BN_HAS_CLUSTERS
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Arrives, and adds to the bytes that this phase waits for; some may have come already. One thread. PTX ISA,
// "mbarrier.arrive".
__device__ __forceinline__ void mbarrier_arrive_expect_tx(Mbarrier* mbarrier, uint32_t bytes) {
#ifdef __CUDA_EMULATOR__
    cuda_emulator::mbarrier_arrive_expect_tx(mbarrier, bytes);
#elif BN_HAS_CLUSTERS
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(mbarrier)),
                 "r"(bytes)
                 : "memory");
#endif
}

// Waits for the bytes of the phase of this parity, and sees them. Every thread that reads them. PTX ISA,
// "mbarrier.try_wait".
__device__ __forceinline__ void mbarrier_wait_parity(Mbarrier* mbarrier, uint32_t parity) {
#ifdef __CUDA_EMULATOR__
    while (!cuda_emulator::mbarrier_try_wait_parity(mbarrier, parity)) {
    }
#elif BN_HAS_CLUSTERS
    uint32_t is_complete;
    do {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(is_complete)
            : "r"(shared_address(mbarrier)), "r"(parity)
            : "memory");
    } while (is_complete == 0);
#endif
}

// Stores sixteen bytes to `slot` in the shared memory of the cluster's CTA of this rank, and counts them at its
// `mbarrier`.
// PTX ISA, "st.async".
__device__ __forceinline__ void st_async(uint4* slot, const uint4& v, Mbarrier* mbarrier, uint32_t rank) {
#ifdef __CUDA_EMULATOR__
    cuda_emulator::store_async(slot, {v.x, v.y, v.z, v.w}, mbarrier, rank);
#elif BN_HAS_CLUSTERS
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                     shared_address_of(slot, rank)),
                 "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(shared_address_of(mbarrier, rank))
                 : "memory");
#endif
}

// Arrives at the exchange counter of a launch, once for each of its CTAs: the arrivals in the low half, and in the high
// half the epoch, the number of exchanges that earlier launches may have made. One thread of a CTA. The answer is not
// waited for before it is used: begin_exchanges asks, exchange_epoch takes it.
//
// A relaxed atomic is enough: this word is all that is read, and the CTA that finds all others there, behind which none
// comes any more, moves the epoch for the next launch. PTX ISA, "atom", .add and .relaxed; "Coherence".
using Arrival = unsigned long long;

__device__ __forceinline__ Arrival begin_exchanges(Arrival* counter) {
#ifdef __CUDA_EMULATOR__
    return cuda_emulator::atomic_add_relaxed(counter, 1);
#else
    Arrival before;
    asm volatile("atom.relaxed.gpu.global.add.u64 %0, [%1], 1;"
                 : "=l"(before)
                 : "l"(__cvta_generic_to_global(counter))
                 : "memory");
    return before;
#endif
}

// The epoch of the launch that the CTA has arrived at, of `ctas` CTAs and at most `exchanges` exchanges of each team.
__device__ __forceinline__ uint32_t exchange_epoch(Arrival* counter, Arrival before, uint32_t ctas,
                                                   uint32_t exchanges) {
    const uint32_t epoch = static_cast<uint32_t>(before >> 32);
    if (static_cast<uint32_t>(before) == ctas - 1) {
        const Arrival next = static_cast<Arrival>(epoch + exchanges) << 32;
#ifdef __CUDA_EMULATOR__
        cuda_emulator::store_relaxed(counter, next);
#else
        asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(__cvta_generic_to_global(counter)), "l"(next)
                     : "memory");
#endif
    }
    return epoch;
}

// The bit of every tag. The last word of a partial that has none, a count of values or 0, does not have it.
constexpr uint32_t kTagBit = 0x80000000u;

// Stores sixteen bytes for other CTAs of the grid to a slot in global memory, without a fence. The last word is a tag that
// says which exchange they belong to, as the flags of NCCL's protocols LL and LL128 do: a reader polls until it sees the tag
// that it waits for, and has the other three words by the same load. Nothing else that the sender did is visible by that.
//
// The access is one: PTX ISA, "ld" and "st", .relaxed with .b128, from sm_70 on. "Memory Consistency Model: Single-Copy
// Atomicity" promises that none of it is seen without the rest; its text speaks of scalar types of up to 64 bits. That it
// holds for 128 is what libcu++ builds cuda::atomic_ref of sixteen bytes on, from sm_70 on, with these instructions (PTX
// ISA 8.4 there; this builds with CUDA 12.8 or later, which is 8.7).
//
// A slot may be stored to again by its writer, once that knows that all readers have read the last value: from values that
// it has read itself, and that the readers sent behind.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 700
#error "store_tagged takes accesses of 128 bits that are atomic: expected compute capability 7.0 or more"
#endif
__device__ __forceinline__ void store_tagged(uint4* slot, const uint4& v) {
#ifdef __CUDA_EMULATOR__
    cuda_emulator::store_tagged(slot, {v.x, v.y, v.z, v.w});
#else
    const uint64_t low = static_cast<uint64_t>(v.y) << 32 | v.x, high = static_cast<uint64_t>(v.w) << 32 | v.z;
    asm volatile("{ .reg .b128 q; mov.b128 q, {%1, %2}; st.relaxed.gpu.global.b128 [%0], q; }" ::"l"(
                     __cvta_generic_to_global(slot)),
                 "l"(low), "l"(high)
                 : "memory");
#endif
}

// Loads what a slot holds, which may have another tag than the one that is waited for.
__device__ __forceinline__ uint4 load_tagged(const uint4* slot, uint32_t tag) {
#ifdef __CUDA_EMULATOR__
    unsigned v[4];
    cuda_emulator::load_tagged(slot, tag, v);
    return make_uint4(v[0], v[1], v[2], v[3]);
#else
    (void)tag;
    uint64_t low, high;
    asm volatile("{ .reg .b128 q; ld.relaxed.gpu.global.b128 q, [%2]; mov.b128 {%0, %1}, q; }"
                 : "=l"(low), "=l"(high)
                 : "l"(__cvta_generic_to_global(slot))
                 : "memory");
    return make_uint4(static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32), static_cast<uint32_t>(high),
                      static_cast<uint32_t>(high >> 32));
#endif
}

// Polls the slot until it has the tag; `v` is what it held.
__device__ __forceinline__ uint4 wait_tagged(const uint4* slot, uint4 v, uint32_t tag) {
    while (v.w != tag) v = load_tagged(slot, tag);
    return v;
}
