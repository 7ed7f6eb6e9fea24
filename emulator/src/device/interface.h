// Everything that libcuda.so.1 offers in addition to the driver API. The glue defines a function of the same name without the
// prefix `emulator_` (with `cuda_emulator_`, the `cuda` functions as they are) that forwards to it.
//
//   X(result, name, (parameters), (arguments))
#pragma once
#include "cuda_emulator/abi.h"

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

#define CUDA_EMULATOR_FUNCTIONS(X)                                                                                     \
    X(void, register_kernel, (const CudaEmulatorKernel* kernel), (kernel))                                             \
    X(int, launch, (const CudaEmulatorLaunch* launch), (launch))                                                       \
    X(unsigned, block_barrier, (unsigned predicate), (predicate))                                                      \
    X(uint64_t, warp_collective, (unsigned kind, unsigned mask, uint64_t value, unsigned source),                      \
      (kind, mask, value, source))                                                                                     \
    X(void*, dynamic_shared, (void), ())                                                                               \
    X(unsigned, atomic_inc_acq_rel, (unsigned* counter, unsigned last), (counter, last))                               \
    X(unsigned, atomic_add_acq_rel, (unsigned* counter, unsigned value), (counter, value))                             \
    X(unsigned, atomic_add_release, (unsigned* counter, unsigned value), (counter, value))                             \
    X(unsigned, load_acquire, (const unsigned* address), (address))                                                    \
    X(unsigned, load_relaxed, (const unsigned* address), (address))                                                    \
    X(void, store_release, (unsigned* address, unsigned value), (address, value))                                      \
    X(unsigned long long, atomic_add_relaxed, (unsigned long long* word, unsigned long long value), (word, value))     \
    X(void, store_relaxed, (unsigned long long* word, unsigned long long value), (word, value))                        \
    X(void, store_tagged, (void* slot, const unsigned* words), (slot, words))                                          \
    X(void, load_tagged, (const void* slot, unsigned tag, unsigned* words), (slot, tag, words))                        \
    X(int, max_active_clusters, (int* clusters, const CudaEmulatorLaunch* launch), (clusters, launch))                 \
    X(unsigned, cluster_rank, (void), ())                                                                              \
    X(void, grid_dependency_wait, (void), ())                                                                          \
    X(void, grid_dependency_launch, (void), ())                                                                        \
    X(void, cluster_arrive, (void), ())                                                                                \
    X(void, cluster_arrive_relaxed, (void), ())                                                                        \
    X(void, cluster_wait, (void), ())                                                                                  \
    X(void, mbarrier_init, (unsigned long long* barrier, unsigned count), (barrier, count))                            \
    X(void, fence_mbarrier_init, (void), ())                                                                           \
    X(void, mbarrier_arrive_expect_tx, (unsigned long long* barrier, unsigned bytes), (barrier, bytes))                \
    X(int, mbarrier_try_wait_parity, (unsigned long long* barrier, unsigned parity), (barrier, parity))                \
    X(void, store_async, (void* slot, const unsigned* words, unsigned long long* barrier, unsigned rank),              \
      (slot, words, barrier, rank))                                                                                    \
    X(void*, hold_sms, (unsigned count), (count))                                                                      \
    X(int, launch_waits, (void* held), (held))                                                                         \
    X(void, release_sms, (void* held), (held))                                                                         \
    X(void, yield, (void), ())                                                                                         \
    X(void, trap, (void), ())                                                                                          \
    X(void, set_position, (CudaEmulatorPosition (*of_this_thread)(void)), (of_this_thread))                           \
    X(void, set_print, (void (*print)(const char* text, size_t bytes)), (print))                                       \
    X(void, set_seed, (uint64_t seed), (seed))                                                                         \
    X(void, set_races, (int on), (on))                                                                                 \
    X(void, set_strict_copies, (int on), (on))                                                                         \
    X(void, fail_call, (uint64_t k, int code), (k, code))                                                              \
    X(int, fault_pending, (void), ())                                                                                  \
    X(uint64_t, calls, (void), ())                                                                                     \
    X(uint64_t, launches, (void), ())                                                                                  \
    X(void, traffic, (uint64_t * loaded, uint64_t * stored), (loaded, stored))                                         \
    X(int, traffic_of, (uint64_t address, uint64_t * loaded, uint64_t * stored), (address, loaded, stored))            \
    X(void, reset_traffic, (void), ())                                                                                 \
    X(void, count_wavefronts, (int on), (on))                                                                          \
    X(void, wavefronts, (uint64_t * needed, uint64_t * ideal), (needed, ideal))                                        \
    X(size_t, worst_wavefronts, (uint64_t * needed, uint64_t * ideal, char* place, size_t capacity),                   \
      (needed, ideal, place, capacity))                                                                                \
    X(void, live, (int64_t * counts), (counts))                                                                        \
    X(size_t, last_report, (char* text, size_t capacity), (text, capacity))                                            \
    X(void, clear_error, (void), ())

#define CUDA_EMULATOR_RUNTIME(X)                                                                                       \
    X(int, cudaGetLastError, (void), ())                                                                               \
    X(int, cudaPeekAtLastError, (void), ())                                                                            \
    X(const char*, cudaGetErrorName, (int error), (error))                                                             \
    X(const char*, cudaGetErrorString, (int error), (error))                                                           \
    X(int, cudaGetDevice, (int* device), (device))                                                                     \
    X(int, cudaSetDevice, (int device), (device))                                                                      \
    X(int, cudaGetDeviceCount, (int* count), (count))                                                                  \
    X(int, cudaDeviceGetAttribute, (int* value, int attribute, int device), (value, attribute, device))                \
    X(int, cudaDriverGetVersion, (int* version), (version))                                                            \
    X(int, cudaRuntimeGetVersion, (int* version), (version))                                                           \
    X(int, cudaDeviceSynchronize, (void), ())                                                                          \
    X(int, cudaStreamSynchronize, (void* stream), (stream))                                                            \
    X(int, cudaStreamIsCapturing, (void* stream, int* status), (stream, status))                                       \
    X(int, cudaMemsetAsync, (void* address, int value, size_t bytes, void* stream), (address, value, bytes, stream))   \
    X(int, cudaFuncSetAttribute, (const void* function, int attribute, int value), (function, attribute, value))       \
    X(int, cudaFuncGetAttributes, (void* attributes, const void* function), (attributes, function))                    \
    X(int, cudaOccupancyMaxActiveBlocksPerMultiprocessor,                                                              \
      (int* blocks, const void* function, int threads, size_t shared_bytes), (blocks, function, threads, shared_bytes))

// The thread sanitizer's hooks: X(name, (parameters), (arguments))
#define CUDA_EMULATOR_HOOKS(X)                                                                                         \
    X(read1, (void* address), (address))                                                                               \
    X(read2, (void* address), (address))                                                                               \
    X(read4, (void* address), (address))                                                                               \
    X(read8, (void* address), (address))                                                                               \
    X(read16, (void* address), (address))                                                                              \
    X(write1, (void* address), (address))                                                                              \
    X(write2, (void* address), (address))                                                                              \
    X(write4, (void* address), (address))                                                                              \
    X(write8, (void* address), (address))                                                                              \
    X(write16, (void* address), (address))                                                                             \
    X(read_range, (void* address, size_t bytes), (address, bytes))                                                     \
    X(write_range, (void* address, size_t bytes), (address, bytes))
