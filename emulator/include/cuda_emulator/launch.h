// Launching by type: only here are a kernel's parameters known, so every function that is given a typed kernel makes it
// known to the device. A kernel that is only ever named through `const void*` cannot be launched.
//
// CUDA_EMULATOR_BUILD is a string literal that says what the translation unit was compiled from, for files of launches.
// Functions are static, as in CUDA's own header, so that a kernel gets the text of the unit that launches it.
#pragma once
#ifndef CUDA_EMULATOR_BUILD
#define CUDA_EMULATOR_BUILD ""
#endif
#include <tuple>
#include <type_traits>
#include <utility>
#include "abi.h"
#include "runtime_api.h"

namespace cuda_emulator {

template <class... Params, size_t... kIndex>
static void call_kernel(void (*kernel)(Params...), void** arguments, std::index_sequence<kIndex...>) {
    (void)arguments;
    kernel(*reinterpret_cast<std::remove_reference_t<Params>*>(arguments[kIndex])...);
}

template <class... Params>
static void invoke_kernel(const void* function, void** arguments) {
    call_kernel(reinterpret_cast<void (*)(Params...)>(const_cast<void*>(function)), arguments,
                std::index_sequence_for<Params...>());
}

template <class... Params>
static const void* known(void (*kernel)(Params...)) {
    static const size_t sizes[] = {sizeof(Params)..., 0};
    const CudaEmulatorKernel description = {reinterpret_cast<const void*>(kernel), &invoke_kernel<Params...>, sizes,
                                            sizeof...(Params), CUDA_EMULATOR_BUILD};
    cuda_emulator_register_kernel(&description);
    return description.function;
}

}  // namespace cuda_emulator

template <class... Params, class... Args>
static cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
    static_assert(sizeof...(Params) == sizeof...(Args), "a launch gives every parameter of its kernel");
    std::tuple<std::remove_cv_t<std::remove_reference_t<Params>>...> values(std::forward<Args>(args)...);
    return std::apply(
        [&](auto&... value) {
            void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
            return cudaLaunchKernelExC(config, cuda_emulator::known(kernel), pointers);
        },
        values);
}

template <class... Params>
static cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, void (*kernel)(Params...), void** arguments) {
    return cudaLaunchKernelExC(config, cuda_emulator::known(kernel), arguments);
}

template <class... Params>
static cudaError_t cudaLaunchKernel(void (*kernel)(Params...), dim3 grid, dim3 block, void** arguments,
                                    size_t shared_bytes, cudaStream_t stream) {
    const cudaLaunchConfig_t config = {grid, block, shared_bytes, stream, nullptr, 0};
    return cudaLaunchKernelExC(&config, cuda_emulator::known(kernel), arguments);
}

template <class... Params>
static cudaError_t cudaLaunchCooperativeKernel(void (*kernel)(Params...), dim3 grid, dim3 block, void** arguments,
                                               size_t shared_bytes, cudaStream_t stream) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    const cudaLaunchConfig_t config = {grid, block, shared_bytes, stream, &attribute, 1};
    return cudaLaunchKernelExC(&config, cuda_emulator::known(kernel), arguments);
}

template <class... Params>
static cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(cuda_emulator::known(kernel), attribute, value);
}

template <class... Params>
static cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)(Params...)) {
    return cudaFuncGetAttributes(attributes, cuda_emulator::known(kernel));
}

template <class... Params>
static cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*kernel)(Params...), int threads,
                                                                 size_t dynamic_shared_bytes) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, cuda_emulator::known(kernel), threads,
                                                         dynamic_shared_bytes);
}

template <class... Params>
static cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*kernel)(Params...),
                                                  const cudaLaunchConfig_t* config) {
    return cudaOccupancyMaxActiveClusters(clusters, cuda_emulator::known(kernel), config);
}
