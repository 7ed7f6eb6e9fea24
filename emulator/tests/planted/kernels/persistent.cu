// CTAs that stay and wait for one another many times.
#include "planted.h"

// Each round, all CTAs add to a counter of the round's parity by release and wait for it by acquire; thread 0 polls while the
// others are at __syncthreads. The first value of a round is the sum of all of the round before. `how`: 0 right; 1 the
// adding does not release what the other threads of the CTA stored, for no barrier is before it; 2 takes the release for an
// acquire: who adds last goes on without a load_acquire.
static __global__ void persistent_kernel(unsigned* x, unsigned* counters, unsigned* y, unsigned rounds, int how) {
    const unsigned t = threadIdx.x;
    unsigned value = 1;
    for (unsigned round = 0; round < rounds; round++) {
        unsigned* slots = x + (round % 2) * gridDim.x;
        const unsigned target = (round / 2 + 1) * gridDim.x;
        if (t == blockDim.x - 1) slots[blockIdx.x] = value;
        if (how != 1) __syncthreads();
        if (t == 0) {
            unsigned* counter = counters + round % 2;
            const unsigned old = cuda_emulator::atomic_add_release(counter, 1);
            if (how != 2 || old != target - 1) {
                while (cuda_emulator::load_acquire(counter) < target) {
                }
            }
        }
        __syncthreads();
        value = 0;
        for (unsigned i = 0; i < gridDim.x; i++) value += slots[i];
        value = value / gridDim.x + 1;
    }
    if (t == 0) y[blockIdx.x] = value;
}

extern "C" int launch_persistent(unsigned* x, unsigned* counters, unsigned* y, unsigned ctas, unsigned threads,
                                 unsigned rounds, int how) {
    return launch_as(persistent_kernel, ctas, threads, 0, 1, x, counters, y, rounds, how);
}
