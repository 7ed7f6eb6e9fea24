#include "running.cuh"

#include "../common/launch.cuh"
#include "running.h"

BnStatus launch_backward_running(const BnBackward& args, BnStream stream) {
    const BnTiling& t = args.tiling;
    const BnStatus status = with_iterator(t.dtype, t.access, [&](auto iterator) {
        return launch_tiled(backward_running_kernel<typename decltype(iterator)::Type>, t, stream, args);
    });
    if (status != BN_SUCCESS || (args.dgamma == nullptr && args.dbeta == nullptr)) return status;
    return launch(backward_running_finish_kernel, warp_per_channel(t), BN_MAX_THREADS, 0, stream, args);
}

BnStatus prepare_backward_running(const BnDevice& device, BnResident* resident) {
    const BnStatus status = with_every_iterator(resident, [&](auto iterator) {
        using Iter = typename decltype(iterator)::Type;
        return prepare(backward_running_kernel<Iter>, "backward_running", device, resident);
    });
    return status != BN_SUCCESS ? status
                                : prepare(backward_running_finish_kernel, "backward_running_finish", device, resident);
}
