// The primitives that are PTX on a GPU, as functions. team.cuh calls them under `#ifdef __CUDA_EMULATOR__`.
//
// The atomics here are the only synchronisation between CTAs that the race check knows: a plain store that another CTA
// reads must be followed by a release and preceded by an acquire of the same word.
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

// ld.acquire.gpu.global.u32. A loop around it lets other CTAs run, and one that can never end becomes an error.
inline unsigned load_acquire(const unsigned* address) { return cuda_emulator_load_acquire(address); }

// st.release.gpu.global.u32.
inline void store_release(unsigned* address, unsigned value) { cuda_emulator_store_release(address, value); }

}  // namespace cuda_emulator
