// The primitives that are PTX on a GPU, as functions. kernels/common/sync.cuh calls them under `#ifdef __CUDA_EMULATOR__`.
//
// These functions are the only synchronisation between CTAs that the race check knows: a plain store that another CTA reads
// must be followed by a release and preceded by an acquire of the same word, or by a barrier of the cluster.
#pragma once
#include "cuda_emulator/abi.h"

namespace cuda_emulator {

// The CTA's dynamic shared memory, aligned to 1024 bytes.
inline void* dynamic_shared() { return cuda_emulator_dynamic_shared(); }

// atom.acq_rel.gpu.global.inc.u32: returns the old value and stores (old >= last) ? 0 : old + 1.
inline unsigned atomic_inc_acq_rel(unsigned* counter, unsigned last) {
    return cuda_emulator_atomic_inc_acq_rel(counter, last);
}

// atom.acq_rel.gpu.global.add.u32: returns the old value.
inline unsigned atomic_add_acq_rel(unsigned* counter, unsigned value) {
    return cuda_emulator_atomic_add_acq_rel(counter, value);
}

// atom.release.gpu.global.add.u32: returns the old value.
inline unsigned atomic_add_release(unsigned* counter, unsigned value) {
    return cuda_emulator_atomic_add_release(counter, value);
}

// ld.acquire.gpu.global.u32. A loop around it lets other CTAs run, and one that can never end becomes an error.
inline unsigned load_acquire(const unsigned* address) { return cuda_emulator_load_acquire(address); }

// ld.relaxed.gpu.global.u32: as load_acquire, and nothing that others released is known for it.
inline unsigned load_relaxed(const unsigned* address) { return cuda_emulator_load_relaxed(address); }

// st.release.gpu.global.u32.
inline void store_release(unsigned* address, unsigned value) { cuda_emulator_store_release(address, value); }

// atom.relaxed.gpu.global.add.u64: returns the old value. st.relaxed.gpu.global.u64. Neither orders anything else.
inline unsigned long long atomic_add_relaxed(unsigned long long* word, unsigned long long value) {
    return cuda_emulator_atomic_add_relaxed(word, value);
}
inline void store_relaxed(unsigned long long* word, unsigned long long value) {
    cuda_emulator_store_relaxed(word, value);
}

// st.relaxed.gpu.global.b128 and ld.relaxed.gpu.global.b128 of a slot whose last word is a tag. A loop around the load waits
// for one tag: with it the reader has the other words, and knows that what the sender did before is over, but sees nothing
// else that it stored. Found: a store into a slot that some reader may not have read yet, a tag of an earlier launch, and
// any other access to the slot that is not ordered.
inline void store_tagged(void* slot, const unsigned (&words)[4]) {
    const unsigned copy[4] = {words[0], words[1], words[2], words[3]};
    cuda_emulator_store_tagged(slot, copy);
}
inline void load_tagged(const void* slot, unsigned tag, unsigned (&words)[4]) {
    cuda_emulator_load_tagged(slot, tag, words);
}

// Programmatic dependent launch: instructions of sm_90, nothing on older devices. Launches run one after the other here; where one may begin before those before it are
// over, a thread that touches global memory before griddepcontrol.wait is found.

// griddepcontrol.wait.
inline void grid_dependency_wait() { cuda_emulator_grid_dependency_wait(); }

// griddepcontrol.launch_dependents.
inline void grid_dependency_launch() { cuda_emulator_grid_dependency_launch(); }

// Clusters, sm_90 on. A CTA of a launch without them is a cluster of one.

// %cluster_ctarank.
inline unsigned cluster_rank() { return cuda_emulator_cluster_rank(); }

// barrier.cluster.arrive.release.aligned and barrier.cluster.wait.acquire.aligned: whole warps, in turns. With .relaxed the
// others learn of the mbarriers that the thread has fenced, and of nothing else.
inline void cluster_arrive() { cuda_emulator_cluster_arrive(); }
inline void cluster_arrive_relaxed() { cuda_emulator_cluster_arrive_relaxed(); }
inline void cluster_wait() { cuda_emulator_cluster_wait(); }

// mbarrier.init.shared::cta.b64: once for each barrier, which is 8 bytes of the CTA's own shared memory, static or dynamic.
inline void mbarrier_init(unsigned long long* barrier, unsigned count) { cuda_emulator_mbarrier_init(barrier, count); }

// fence.mbarrier_init.release.cluster: by the thread that initialized, before the cluster's barrier.
inline void fence_mbarrier_init() { cuda_emulator_fence_mbarrier_init(); }

// mbarrier.arrive.expect_tx.release.cta.shared::cta.b64: the phase waits for so many bytes more, and one arrival less.
inline void mbarrier_arrive_expect_tx(unsigned long long* barrier, unsigned bytes) {
    cuda_emulator_mbarrier_arrive_expect_tx(barrier, bytes);
}

// mbarrier.try_wait.parity.acquire.cta.shared::cta.b64: whether the phase of that parity is over. A loop around it lets
// other threads and CTAs run, and one that can never end becomes an error.
inline bool mbarrier_try_wait_parity(unsigned long long* barrier, unsigned parity) {
    return cuda_emulator_mbarrier_try_wait_parity(barrier, parity) != 0;
}

// st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32: `slot`, aligned to 16 bytes, and `barrier` are places in
// the caller's own shared memory, mapped (mapa) to the CTA of that rank. The words can be read there once the phase of the
// barrier that counts them is over; nothing else that the caller stored becomes visible by that.
inline void store_async(void* slot, const unsigned (&words)[4], unsigned long long* barrier, unsigned rank) {
    const unsigned copy[4] = {words[0], words[1], words[2], words[3]};
    cuda_emulator_store_async(slot, copy, barrier, rank);
}

}  // namespace cuda_emulator
