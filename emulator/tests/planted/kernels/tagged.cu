// CTAs of a grid that exchange sixteen bytes with a tag.
#include "planted.h"

// Each round, every CTA stores its value to the others, and the next value is one more than the mean of all. Tags count from
// `epoch`. `how`: 0 right; 1 one stage of slots, which is stored over while others may still read it; 2 the slots are read by
// plain loads, once the tag is there; 3 they are stored by plain stores; 4 a value is stored by a plain store, outside of the slot;
// 5 a tag that nobody stores is waited for.
static __global__ void tagged_kernel(unsigned* slots, unsigned* outside, unsigned* y, unsigned rounds, unsigned epoch, int how) {
    __shared__ unsigned total;
    const unsigned t = threadIdx.x;
    unsigned value = 1;
    for (unsigned round = 0; round < rounds; round++) {
        unsigned* const stage = slots + (how == 1 ? 0 : round % 2) * gridDim.x * 4;
        unsigned* const own = stage + blockIdx.x * 4;
        const unsigned tag = epoch + round;
        if (t == 0) {
            total = 0;
            if (how == 4) outside[blockIdx.x] = value;
            if (how == 3) {
                *reinterpret_cast<uint4*>(own) = make_uint4(value, 0, 0, tag);
            } else {
                cuda_emulator::store_tagged(own, {value, 0, 0, tag});
            }
        }
        __syncthreads();
        unsigned words[4] = {};
        if (t < gridDim.x) {
            unsigned* const from = stage + t * 4;
            const unsigned wanted = how == 5 && round == rounds - 1 ? tag + 1 : tag;
            if (how == 2) {
                while (cuda_emulator::load_relaxed(from + 3) != wanted) {
                }
                words[0] = reinterpret_cast<uint4*>(from)->x;
            } else {
                while (words[3] != wanted) cuda_emulator::load_tagged(from, wanted, words);
            }
            if (how == 4) words[0] = outside[t];
        }
        for (unsigned i = 0; i < gridDim.x; i++) {
            if (t == i) total += words[0];
            __syncthreads();
        }
        value = total / gridDim.x + 1;
        __syncthreads();
    }
    if (t == 0) y[blockIdx.x] = value;
}

extern "C" int launch_tagged(unsigned* slots, unsigned* outside, unsigned* y, unsigned ctas, unsigned threads,
                             unsigned rounds, unsigned epoch, int how) {
    return launch_as(tagged_kernel, ctas, threads, 0, 1, slots, outside, y, rounds, epoch, how);
}
