#include "probes.cuh"

#include "../common/launch.cuh"

// With CTAs that are resident together, as cooperative grids and clusters have them.
template <class Kernel>
static BnStatus launch_probe(Kernel kernel, const BnProbe& args, uint32_t shared_bytes, cudaLaunchAttribute attribute,
                             void* stream) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(args.ctas);
    config.blockDim = dim3(args.threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = 1;
    return returned(cudaLaunchKernelEx(&config, kernel, args));
}

// The copy with this many vectors of a thread in flight; a null pointer where there is none.
static void (*copy_kernel(uint32_t in_flight))(BnProbe) {
    switch (in_flight) {
        case 4: return stream_kernel<false, 4>;
        case 8: return stream_kernel<false, 8>;
        case 16: return stream_kernel<false, 16>;
    }
    return nullptr;
}

extern "C" BnStatus bn_probe(const BnProbe* args, void* stream) {
    const auto plain = [&](void (*kernel)(BnProbe)) {
        if (kernel == nullptr) return static_cast<BnStatus>(cudaErrorInvalidValue);
        return launch(kernel, args->ctas, args->threads, 0, stream, *args);
    };
    switch (args->kind) {
        case BN_PROBE_EMPTY: return plain(meeting_kernel);
        case BN_PROBE_COPY: return plain(copy_kernel(args->in_flight));
        case BN_PROBE_TWO_READ: return plain(stream_kernel<true, kProbeBatch>);
        case BN_PROBE_STRIDED: return plain(strided_kernel);
        case BN_PROBE_MEETING: return launch_probe(meeting_kernel, *args, 0, cooperative(), stream);
        case BN_PROBE_EXCHANGE:
            return launch_probe(exchange_kernel, *args, (2 * args->team + 1) * sizeof(uint4), cluster_of(args->team),
                                stream);
    }
    return static_cast<BnStatus>(cudaErrorInvalidValue);
}

extern "C" BnStatus bn_probe_prepare(const BnDevice* device, BnResident* resident) {
    struct Named {
        void (*kernel)(BnProbe);
        const char* name;
    };
    for (const Named& probe : {Named{&stream_kernel<false, 4>, "stream, 4 in flight"},
                               Named{&stream_kernel<false, 8>, "stream, 8 in flight"},
                               Named{&stream_kernel<false, 16>, "stream, 16 in flight"},
                               Named{&stream_kernel<true, kProbeBatch>, "stream of two inputs"},
                               Named{&strided_kernel, "strided"}, Named{&meeting_kernel, "meeting"}}) {
        const BnStatus status = prepare(probe.kernel, probe.name, *device, resident);
        if (status != BN_SUCCESS) return status;
    }
    return prepare_team(exchange_kernel, "exchange", *device, resident);
}
