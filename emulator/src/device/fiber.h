// A CUDA thread: a stack of its own, switched by hand at barriers and shuffles. (swapcontext would do, but makes two
// system calls a switch.)
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace emulator {

constexpr size_t kStackBytes = 64 * 1024;
// The distance of stacks, no power of two, so that the tops of all stacks do not fall into the same lines of a cache.
constexpr size_t kStackStride = kStackBytes + 17 * 64;

// Prepares a stack on which `entry` starts at the first switch to the returned stack pointer. `entry` never returns.
void* fiber_prepare(void* stack, size_t bytes, void (*entry)());

// Saves the running fiber's stack pointer to `*from` and goes on with `to`.
extern "C" void emulator_fiber_switch(void** from, void* to);

}  // namespace emulator
