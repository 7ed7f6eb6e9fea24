#include "probes.cuh"

#include "launch.cuh"

// `ctas` CTAs of the most threads, as teams where the kernel has them.
template <class Kernel>
static BnStatus launch_probe(Kernel kernel, const BnProbe& args, uint32_t shared_bytes, cudaLaunchAttribute attribute,
                             void* stream) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(args.ctas);
    config.blockDim = dim3(BN_MAX_THREADS);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = 1;
    return static_cast<BnStatus>(cudaLaunchKernelEx(&config, kernel, args));
}

extern "C" BnStatus bn_probe(const BnProbe* args, void* stream) {
    switch (args->kind) {
        case BN_PROBE_COPY: return launch(stream_kernel<false>, args->ctas, BN_MAX_THREADS, 0, stream, *args);
        case BN_PROBE_TWO_READ:
            return launch(stream_kernel<true>, args->ctas, BN_MAX_THREADS, 0, stream, *args);
        case BN_PROBE_STRIDED: return launch(strided_kernel, args->ctas, BN_MAX_THREADS, 0, stream, *args);
        case BN_PROBE_MEETING: return launch_probe(meeting_kernel, *args, 0, cooperative(), stream);
        case BN_PROBE_EXCHANGE:
            return launch_probe(exchange_kernel, *args, (2 * args->team + 1) * sizeof(uint4), cluster_of(args->team),
                                stream);
    }
    return static_cast<BnStatus>(cudaErrorInvalidValue);
}

extern "C" BnStatus bn_probe_prepare(const BnDevice* device, BnResident* resident) {
    BnStatus status = prepare(stream_kernel<false>, "stream", *device, resident);
    if (status == BN_SUCCESS) status = prepare(stream_kernel<true>, "stream (written)", *device, resident);
    if (status == BN_SUCCESS) status = prepare(strided_kernel, "strided", *device, resident);
    if (status == BN_SUCCESS) status = prepare(meeting_kernel, "meeting", *device, resident);
    return status == BN_SUCCESS ? prepare_team(exchange_kernel, "exchange", *device, resident) : status;
}
