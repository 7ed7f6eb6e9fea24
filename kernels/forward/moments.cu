#include "moments.cuh"

#include "../common/launch.cuh"
#include "moments.h"

BnStatus launch_moments(const BnMoments& args, BnStream stream) {
    const BnTiling& t = args.tiling;
    return with_iterator(t.dtype, t.access, [&](auto iterator) {
        return launch_tiled(moments_kernel<typename decltype(iterator)::Type>, t, stream, args);
    });
}

extern "C" BnStatus bn_moments(const BnMoments* args, BnStream stream) {
    const BnTiling& t = args->tiling;
    const BnStatus status = launch_moments(*args, stream);
    if (status != BN_SUCCESS || t.strategy != BN_TWO_PASS) return status;
    return launch(moments_finish_kernel, warp_per_channel(t), BN_MAX_THREADS, 0, stream, *args);
}

extern "C" BnStatus bn_moments_prepare(const BnDevice* device, BnResident* resident) {
    const BnStatus status = with_every_iterator(resident, [&](auto iterator) {
        return prepare_clustered(moments_kernel<typename decltype(iterator)::Type>, "moments", *device, resident);
    });
    return status != BN_SUCCESS ? status : prepare(moments_finish_kernel, "moments_finish", *device, resident);
}
