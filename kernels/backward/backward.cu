#include "batch.cuh"

#include "../common/launch.cuh"
#include "fused.cuh"
#include "running.h"
#include "two_pass.cuh"

// Through the batch's statistics.
static BnStatus launch_backward_batch(const BnBackward& args, void* stream) {
    const BnTiling& t = args.tiling;
    return with_owner(t.dtype, t.form, [&](auto owner) {
        using Owner = typename decltype(owner)::Type;
        if (t.strategy != BN_TWO_READ) return launch_tiled(backward_held_kernel<Owner>, t, stream, args);
        BnStatus status = BN_SUCCESS;
        if (recomputes_v(args.epilogue)) status = launch_tiled(center_kernel<Owner>, t, stream, args);
        if (status == BN_SUCCESS) status = launch_tiled(sums_kernel<Owner>, t, stream, args);
        if (status == BN_SUCCESS) status = launch_tiled(apply_kernel<Owner>, t, stream, args);
        return status;
    });
}

extern "C" BnStatus bn_backward(const BnBackward* args, void* stream) {
    switch (args->statistics.kind) {
        case BN_BATCH: return launch_backward_batch(*args, stream);
        case BN_RUNNING: return launch_backward_running(*args, stream);
    }
    return static_cast<BnStatus>(cudaErrorInvalidValue);
}

extern "C" BnStatus bn_backward_prepare(const BnDevice* device, BnResident* resident) {
    const BnStatus batch = with_every_owner(resident, [&](auto owner) {
        using Owner = typename decltype(owner)::Type;
        BnStatus status = prepare_team(backward_held_kernel<Owner>, "backward_held", *device, resident, true);
        if (status == BN_SUCCESS) status = prepare(center_kernel<Owner>, "center", *device, resident);
        if (status == BN_SUCCESS) status = prepare(sums_kernel<Owner>, "sums", *device, resident);
        if (status == BN_SUCCESS) status = prepare(apply_kernel<Owner>, "apply", *device, resident);
        return status;
    });
    return batch != BN_SUCCESS ? batch : prepare_backward_running(*device, resident);
}
