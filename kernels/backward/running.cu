#include "running.cuh"

#include "../common/launch.cuh"
#include "running.h"

BnStatus launch_backward_running(const BnBackward& args, void* stream) {
    const BnTiling& t = args.tiling;
    const BnStatus status = with_owner(t.dtype, t.form, [&](auto owner) {
        return launch_tiled(backward_running_kernel<typename decltype(owner)::Type>, t, stream, args);
    });
    if (status != BN_SUCCESS || (args.dgamma == nullptr && args.dbeta == nullptr)) return status;
    const uint32_t ctas = (t.channels + BN_MAX_THREADS / kWarp - 1) / (BN_MAX_THREADS / kWarp);
    return launch(backward_running_finish_kernel, ctas, BN_MAX_THREADS, 0, stream, args);
}

BnStatus prepare_backward_running(const BnDevice& device, BnResident* resident) {
    const BnStatus status = with_every_owner(resident, [&](auto owner) {
        return prepare(backward_running_kernel<typename decltype(owner)::Type>, "backward_running", device, resident);
    });
    return status != BN_SUCCESS ? status
                                : prepare(backward_running_finish_kernel, "backward_running_finish", device, resident);
}
