#include "backward_frozen.cuh"

#include "launch.cuh"

extern "C" BnStatus bn_backward_frozen(const BnBackwardFrozen* args, void* stream) {
    const BnTiling& t = args->tiling;
    const BnStatus status = with_owner(t.dtype, t.form, [&](auto owner) {
        return launch_tiled(backward_frozen_kernel<typename decltype(owner)::Type>, t, stream, *args);
    });
    if (status != BN_SUCCESS || (args->dgamma == nullptr && args->dbeta == nullptr)) return status;
    const uint32_t ctas = (t.channels + BN_MAX_THREADS / kWarp - 1) / (BN_MAX_THREADS / kWarp);
    return launch(frozen_finish_kernel, ctas, BN_MAX_THREADS, 0, stream, *args);
}

extern "C" BnStatus bn_backward_frozen_prepare(const BnDevice* device, BnResident* resident) {
    const BnStatus status = with_every_owner(resident, [&](auto owner) {
        return prepare(backward_frozen_kernel<typename decltype(owner)::Type>, "backward_frozen", *device, resident);
    });
    return status != BN_SUCCESS ? status : prepare(frozen_finish_kernel, "frozen_finish", *device, resident);
}
