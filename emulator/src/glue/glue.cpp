// Linked into the executable that holds the kernels: gives them the symbols that they need, and forwards to libcuda.so.1,
// which it loads before main, by its path, so that nothing needs LD_LIBRARY_PATH and every later dlopen finds it by name.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include "cuda_emulator/runtime_api.h"
#include "interface.h"

// The values that position.h declares as const uint3.
extern "C" {
__thread unsigned threadIdx[3];
__thread unsigned blockIdx[3];
__thread unsigned blockDim[3];
__thread unsigned gridDim[3];
}

// Prints a report, by Rust: only so does a test's own output take it.
extern "C" void cuda_emulator_print(const char* text, size_t bytes);

static CudaEmulatorPosition position_of_this_thread() { return {threadIdx, blockIdx, blockDim, gridDim}; }

#define FORWARD(result, name, parameters, arguments) \
    static result(*name##_forward) parameters;       \
    extern "C" result cuda_emulator_##name parameters { return name##_forward arguments; }
CUDA_EMULATOR_FUNCTIONS(FORWARD)
#undef FORWARD

// Their declarations in runtime_api.h have the enums instead of int: the same by the calling convention, so they are
// defined here under names of their own, and named by the linker what kernels call.
#define FORWARD(result, name, parameters, arguments)            \
    static result(*name##_forward) parameters;                  \
    extern "C" result glue_##name parameters __asm__(#name);    \
    extern "C" result glue_##name parameters { return name##_forward arguments; }
CUDA_EMULATOR_RUNTIME(FORWARD)
#undef FORWARD

// Instrumented code may run before the library is loaded: static initializers.
#define FORWARD(name, parameters, arguments)       \
    static void name##_before_loading parameters {} \
    static void(*name##_forward) parameters = name##_before_loading;
CUDA_EMULATOR_HOOKS(FORWARD)
#undef FORWARD

// Jumps rather than calls: libcuda.so.1 reads the return address to name the place in a report.
#define FORWARD(name, parameters, arguments) \
    extern "C" void __tsan_##name parameters { name##_forward arguments; }
CUDA_EMULATOR_HOOKS(FORWARD)
#undef FORWARD

static CudaEmulatorLaunch request(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
    CudaEmulatorLaunch launch = {};
    launch.function = function;
    launch.arguments = arguments;
    const dim3 sizes[2] = {config->gridDim, config->blockDim};
    for (int i = 0; i < 2; i++) {
        unsigned* to = i == 0 ? launch.grid : launch.block;
        to[0] = sizes[i].x;
        to[1] = sizes[i].y;
        to[2] = sizes[i].z;
    }
    launch.dynamic_shared_bytes = config->dynamicSmemBytes;
    launch.stream = config->stream;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const cudaLaunchAttribute& attribute = config->attrs[i];
        if (attribute.id == cudaLaunchAttributeCooperative) launch.cooperative = attribute.val.cooperative;
        if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization) {
            launch.programmatic = attribute.val.programmaticStreamSerializationAllowed;
        }
        if (attribute.id == cudaLaunchAttributeClusterDimension) {
            launch.cluster[0] = attribute.val.clusterDim.x;
            launch.cluster[1] = attribute.val.clusterDim.y;
            launch.cluster[2] = attribute.val.clusterDim.z;
        }
    }
    return launch;
}

extern "C" {
// Further symbols that g++ emits.
void __tsan_init(void) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
    const CudaEmulatorLaunch launch = request(config, function, arguments);
    return static_cast<cudaError_t>(cuda_emulator_launch(&launch));
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function, const cudaLaunchConfig_t* config) {
    const CudaEmulatorLaunch launch = request(config, function, nullptr);
    return static_cast<cudaError_t>(cuda_emulator_max_active_clusters(clusters, &launch));
}
}

static void* load(const char* path) {
    void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
        fprintf(stderr, "cuda-emulator: %s\n", dlerror());
        abort();
    }
    return library;
}

static void* find(void* library, const char* name) {
    void* function = dlsym(library, name);
    if (!function) {
        fprintf(stderr, "cuda-emulator: %s is missing in " CUDA_EMULATOR_LIBRARY "\n", name);
        abort();
    }
    return function;
}

__attribute__((constructor(101))) static void load_device() {
    void* library = load(CUDA_EMULATOR_LIBRARY);
    load(CUDA_EMULATOR_ALIAS);
#define FIND(result, name, parameters, arguments) \
    name##_forward = reinterpret_cast<result(*) parameters>(find(library, "emulator_" #name));
    CUDA_EMULATOR_FUNCTIONS(FIND)
    CUDA_EMULATOR_RUNTIME(FIND)
#undef FIND
#define FIND(name, parameters, arguments) \
    name##_forward = reinterpret_cast<void(*) parameters>(find(library, "emulator_" #name));
    CUDA_EMULATOR_HOOKS(FIND)
#undef FIND
    cuda_emulator_set_position(position_of_this_thread);
    cuda_emulator_set_print(cuda_emulator_print);
}
