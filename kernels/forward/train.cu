#include "train.cuh"

#include "../common/launch.cuh"
#include "pack_mask.cuh"

extern "C" BnStatus bn_moments(const BnMoments* args, void* stream) {
    const BnTiling& t = args->tiling;
    const BnStatus status = with_owner(t.dtype, t.form, [&](auto owner) {
        using Owner = typename decltype(owner)::Type;
        return launch_tiled(moments_kernel<Owner>, t, stream, *args);
    });
    if (status != BN_SUCCESS || t.strategy != BN_TWO_READ) return status;
    const uint32_t ctas = (t.channels + BN_MAX_THREADS / kWarp - 1) / (BN_MAX_THREADS / kWarp);
    return launch(moments_finish_kernel, ctas, BN_MAX_THREADS, 0, stream, *args);
}

extern "C" BnStatus bn_train(const BnTrain* args, void* stream) {
    const BnTiling& t = args->tiling;
    const BnStatus status = with_owner(t.dtype, t.form, [&](auto owner) {
        using Owner = typename decltype(owner)::Type;
        if (t.strategy != BN_TWO_READ) return launch_tiled(train_held_kernel<Owner>, t, stream, *args);
        const BnMoments moments = {t, args->x, nullptr, nullptr, args->workspace};
        const BnStatus first = launch_tiled(moments_kernel<Owner>, t, stream, moments);
        if (first != BN_SUCCESS) return first;
        return launch_tiled(train_second_kernel<Owner>, t, stream, *args);
    });
    return status != BN_SUCCESS ? status : pack_mask(t, args->y, args->relu_mask, stream);
}

extern "C" BnStatus bn_moments_prepare(const BnDevice* device, BnResident* resident) {
    const BnStatus status = with_every_owner(resident, [&](auto owner) {
        return prepare_team(moments_kernel<typename decltype(owner)::Type>, "moments", *device, resident);
    });
    return status != BN_SUCCESS ? status : prepare(moments_finish_kernel, "moments_finish", *device, resident);
}

extern "C" BnStatus bn_train_prepare(const BnDevice* device, BnResident* resident) {
    const BnStatus status = with_every_owner(resident, [&](auto owner) {
        using Owner = typename decltype(owner)::Type;
        const BnStatus held = prepare_team(train_held_kernel<Owner>, "train_held", *device, resident, true);
        return held != BN_SUCCESS ? held : prepare(train_second_kernel<Owner>, "train_second", *device, resident);
    });
    return status != BN_SUCCESS ? status : prepare_pack_mask(*device, resident);
}
