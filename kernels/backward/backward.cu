#include "../common/launch.cuh"
#include "fused.cuh"
#include "running.h"
#include "two_pass.cuh"

// The gradient through the batch's statistics.
static BnStatus launch_backward_batch(const BnBackward& args, BnStream stream) {
    const BnTiling& t = args.tiling;
    return with_iterator(t.dtype, t.access, [&](auto iterator) {
        using Iter = typename decltype(iterator)::Type;
        if (t.strategy != BN_TWO_PASS) {
            return with_fused_strategy<Iter>(t.strategy, [&](auto strategy) {
                return launch_tiled(backward_fused_kernel<Iter, decltype(strategy)::value>, t, stream, args);
            });
        }
        BnStatus status = BN_SUCCESS;
        if (recomputes_v(args.epilogue)) status = launch_tiled(mean_residual_kernel<Iter>, t, stream, args);
        if (status == BN_SUCCESS) status = launch_tiled(backward_reduce_kernel<Iter>, t, stream, args);
        if (status == BN_SUCCESS) status = launch_tiled(backward_elemt_kernel<Iter>, t, stream, args);
        return status;
    });
}

extern "C" BnStatus bn_backward(const BnBackward* args, BnStream stream) {
    switch (args->statistics.kind) {
        case BN_BATCH: return launch_backward_batch(*args, stream);
        case BN_RUNNING: return launch_backward_running(*args, stream);
    }
    return static_cast<BnStatus>(cudaErrorInvalidValue);
}

extern "C" BnStatus bn_backward_prepare(const BnDevice* device, BnResident* resident) {
    const BnStatus batch = with_every_iterator(resident, [&](auto iterator) {
        using Iter = typename decltype(iterator)::Type;
        BnStatus status = with_every_fused_strategy<Iter>([&](auto strategy) {
            constexpr int kStrategy = decltype(strategy)::value;
            return prepare_fused<kStrategy>(backward_fused_kernel<Iter, kStrategy>, "backward_fused", *device, resident);
        });
        if (status == BN_SUCCESS) status = prepare(mean_residual_kernel<Iter>, "mean_residual", *device, resident);
        if (status == BN_SUCCESS) status = prepare(backward_reduce_kernel<Iter>, "backward_reduce", *device, resident);
        if (status == BN_SUCCESS) status = prepare(backward_elemt_kernel<Iter>, "backward_elemt", *device, resident);
        return status;
    });
    return batch != BN_SUCCESS ? batch : prepare_backward_running(*device, resident);
}
