#include "probes.cuh"

#include "../common/launch.cuh"

// Launches a probe whose CTAs are resident together, as a cooperative grid or as clusters.
template <class Kernel>
static BnStatus launch_probe(Kernel kernel, const BnProbe& args, uint32_t shared_bytes, cudaLaunchAttribute attribute,
                             BnStream stream) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(args.ctas);
    config.blockDim = dim3(args.threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream.handle);
    cudaLaunchAttribute attributes[2] = {attribute, programmatic()};
    config.attrs = attributes;
    config.numAttrs = 1 + stream.is_programmatic;
    return returned(cudaLaunchKernelEx(&config, kernel, args));
}

// The copy with this many vectors of a thread in flight; null where there is none.
static void (*copy_of(uint32_t in_flight))(BnProbe) {
    switch (in_flight) {
        case 4: return copy_kernel<false, 4>;
        case 8: return copy_kernel<false, 8>;
        case 16: return copy_kernel<false, 16>;
    }
    return nullptr;
}

extern "C" BnStatus bn_probe(const BnProbe* args, BnStream stream) {
    const auto plain = [&](void (*kernel)(BnProbe)) {
        if (kernel == nullptr) return static_cast<BnStatus>(cudaErrorInvalidValue);
        return launch(kernel, args->ctas, args->threads, 0, stream, *args);
    };
    switch (args->kind) {
        case BN_PROBE_EMPTY: return plain(grid_exchange_kernel);
        case BN_PROBE_COPY: return plain(copy_of(args->in_flight));
        case BN_PROBE_TWO_INPUTS: return plain(copy_kernel<true, kProbeUnroll>);
        case BN_PROBE_STRIDED: return plain(strided_copy_kernel);
        case BN_PROBE_GRID_EXCHANGE:
            return launch_probe(grid_exchange_kernel, *args, sizeof(uint4), cooperative(), stream);
        case BN_PROBE_CLUSTER_EXCHANGE:
            return launch_probe(cluster_exchange_kernel, *args, (2 * args->team + 1) * sizeof(uint4),
                                cluster_of(args->team), stream);
    }
    return static_cast<BnStatus>(cudaErrorInvalidValue);
}

extern "C" BnStatus bn_probe_prepare(const BnDevice* device, BnResident* resident) {
    struct Named {
        void (*kernel)(BnProbe);
        const char* name;
    };
    for (const Named& probe : {Named{&copy_kernel<false, 4>, "copy, 4 in flight"},
                               Named{&copy_kernel<false, 8>, "copy, 8 in flight"},
                               Named{&copy_kernel<false, 16>, "copy, 16 in flight"},
                               Named{&copy_kernel<true, kProbeUnroll>, "copy of two inputs"},
                               Named{&strided_copy_kernel, "strided copy"},
                               Named{&grid_exchange_kernel, "grid exchange"}}) {
        const BnStatus status = prepare(probe.kernel, probe.name, *device, resident);
        if (status != BN_SUCCESS) return status;
    }
    return prepare_clustered(cluster_exchange_kernel, "cluster exchange", *device, resident);
}
