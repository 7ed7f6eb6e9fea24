// The runtime API that launch functions use. It works on the current context, as CUDA's does.
#include <cstring>
#include "arena.h"
#include "cuda_emulator/abi.h"
#include "driver.h"
#include "launch.h"
#include "profile.h"

// The layout that kernels are compiled with.
#define __CUDA_EMULATOR__
#include "cuda_emulator/runtime_api.h"

using namespace emulator;

static int remember(int code) {
    if (code) control().last_error = code;
    return code;
}

#define RUNTIME_CALL()                                                            \
    do {                                                                          \
        if (const int code = begin_call()) return remember(code);                 \
        if (control().device < 0) return remember(cudaErrorDeviceUninitialized);  \
    } while (false)
#define RUNTIME_QUERY()                                                       \
    do {                                                                      \
        if (const int code = begin_call(true)) return remember(code);         \
    } while (false)

EMULATOR_EXPORT int emulator_cudaGetLastError(void) {
    Control& c = control();
    const int code = c.sticky ? c.sticky : c.last_error;
    c.last_error = 0;
    return code;
}

EMULATOR_EXPORT int emulator_cudaPeekAtLastError(void) {
    return control().sticky ? control().sticky : control().last_error;
}

EMULATOR_EXPORT const char* emulator_cudaGetErrorName(int error) {
    const char* name = code_name(error);
    return name ? name : "unrecognized error code";
}

EMULATOR_EXPORT const char* emulator_cudaGetErrorString(int error) {
    const char* text = code_description(error);
    return text ? text : "unrecognized error code";
}

EMULATOR_EXPORT int emulator_cudaGetDevice(int* device) {
    RUNTIME_QUERY();
    *device = control().device < 0 ? 0 : control().device;
    return cudaSuccess;
}

EMULATOR_EXPORT int emulator_cudaSetDevice(int device) {
    RUNTIME_QUERY();
    if (!valid_device(device)) return remember(cudaErrorInvalidDevice);
    if (!reserve_arena()) return remember(cudaErrorMemoryAllocation);
    control().device = device;
    return cudaSuccess;
}

EMULATOR_EXPORT int emulator_cudaGetDeviceCount(int* count) {
    RUNTIME_QUERY();
    *count = kProfileCount;
    return cudaSuccess;
}

EMULATOR_EXPORT int emulator_cudaDeviceGetAttribute(int* value, int attribute, int device) {
    RUNTIME_QUERY();
    if (!valid_device(device)) return remember(cudaErrorInvalidDevice);
    return remember(device_attribute(profile(device), attribute, device, value) ? cudaSuccess : cudaErrorInvalidValue);
}

EMULATOR_EXPORT int emulator_cudaDriverGetVersion(int* version) {
    RUNTIME_QUERY();
    *version = 13000;
    return cudaSuccess;
}

EMULATOR_EXPORT int emulator_cudaRuntimeGetVersion(int* version) {
    RUNTIME_QUERY();
    *version = CUDART_VERSION;
    return cudaSuccess;
}

EMULATOR_EXPORT int emulator_cudaDeviceSynchronize(void) {
    RUNTIME_CALL();
    return cudaSuccess;
}

EMULATOR_EXPORT int emulator_cudaStreamSynchronize(void* stream) {
    RUNTIME_CALL();
    return remember(valid_stream(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EMULATOR_EXPORT int emulator_cudaStreamIsCapturing(void* stream, int* status) {
    RUNTIME_CALL();
    *status = cudaStreamCaptureStatusNone;
    return remember(valid_stream(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EMULATOR_EXPORT int emulator_cudaFuncSetAttribute(const void* function, int attribute, int value) {
    RUNTIME_CALL();
    const int device = control().device;
    Kernel* kernel = find_kernel(function);
    if (!kernel) return remember(cudaErrorInvalidDeviceFunction);
    if (const int code = check_architecture(device)) return remember(code);
    switch (attribute) {
        case cudaFuncAttributeMaxDynamicSharedMemorySize:
            if (value < 0 || value + static_cast<int>(kernel->static_shared) > profile(device).shared_opt_in) {
                return remember(cudaErrorInvalidValue);
            }
            kernel->dynamic_shared_limit[device] = static_cast<size_t>(value);
            return cudaSuccess;
        case cudaFuncAttributePreferredSharedMemoryCarveout:
            return remember(value >= -1 && value <= 100 ? cudaSuccess : cudaErrorInvalidValue);
        case cudaFuncAttributeNonPortableClusterSizeAllowed:
            if (!profile(device).has_clusters()) return remember(cudaErrorNotSupported);
            kernel->nonportable_clusters[device] = value != 0;
            return cudaSuccess;
        default: return remember(cudaErrorInvalidValue);
    }
}

EMULATOR_EXPORT int emulator_cudaFuncGetAttributes(void* to, const void* function) {
    RUNTIME_CALL();
    const int device = control().device;
    const Kernel* kernel = find_kernel(function);
    if (!kernel) return remember(cudaErrorInvalidDeviceFunction);
    if (const int code = check_architecture(device)) return remember(code);
    cudaFuncAttributes* attributes = static_cast<cudaFuncAttributes*>(to);
    *attributes = cudaFuncAttributes();
    attributes->sharedSizeBytes = kernel->static_shared;
    attributes->maxThreadsPerBlock = kMaxThreadsPerBlock;
    attributes->numRegs = kRegistersPerThread;
    attributes->ptxVersion = attributes->binaryVersion = profile(device).major * 10 + profile(device).minor;
    attributes->maxDynamicSharedSizeBytes = static_cast<int>(kernel->dynamic_shared_limit[device]);
    attributes->preferredShmemCarveout = cudaSharedmemCarveoutDefault;
    attributes->nonPortableClusterSizeAllowed = kernel->nonportable_clusters[device];
    return cudaSuccess;
}

EMULATOR_EXPORT int emulator_cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                                           int threads, size_t shared_bytes) {
    RUNTIME_CALL();
    const int device = control().device;
    const Kernel* kernel = find_kernel(function);
    if (!kernel) return remember(cudaErrorInvalidDeviceFunction);
    if (const int code = check_architecture(device)) return remember(code);
    if (threads <= 0) return remember(cudaErrorInvalidValue);
    *blocks = shared_bytes > kernel->dynamic_shared_limit[device]
                  ? 0
                  : resident_blocks(profile(device), threads, kernel->static_shared + shared_bytes);
    return cudaSuccess;
}

// The checks of a launch, without starting it: what is refused there is refused here, but 0 is the answer where none fits.
EMULATOR_EXPORT int emulator_max_active_clusters(int* clusters, const CudaEmulatorLaunch* launch) {
    RUNTIME_CALL();
    const int device = control().device;
    const Kernel* kernel = find_kernel(launch->function);
    if (!kernel) return remember(cudaErrorInvalidDeviceFunction);
    if (const int code = check_architecture(device)) return remember(code);
    if (!profile(device).has_clusters()) return remember(cudaErrorNotSupported);
    const unsigned size = launch->cluster[0] ? launch->cluster[0] : 1;
    const bool allowed = size <= (kernel->nonportable_clusters[device] ? kMostClusterSize : kMostPortableClusterSize);
    if (!allowed || launch->grid[0] % size != 0) return remember(cudaErrorInvalidClusterSize);
    const int threads = static_cast<int>(launch->block[0] * launch->block[1] * launch->block[2]);
    const bool fits = launch->dynamic_shared_bytes <= kernel->dynamic_shared_limit[device];
    *clusters = !fits ? 0
                      : static_cast<int>(resident_clusters(profile(device), threads,
                                                           kernel->static_shared + launch->dynamic_shared_bytes, size, 0));
    return cudaSuccess;
}

EMULATOR_EXPORT int emulator_launch(const CudaEmulatorLaunch* launch) {
    RUNTIME_CALL();
    if (!valid_stream(launch->stream)) return remember(cudaErrorInvalidResourceHandle);
    return remember(run_launch(*launch));
}
