#include "train.cuh"

#include "../common/launch.cuh"
#include "moments.h"
#include "pack_mask.cuh"

extern "C" BnStatus bn_train(const BnTrain* args, BnStream stream) {
    const BnTiling& t = args->tiling;
    if (t.strategy == BN_TWO_PASS) {
        const BnMoments moments = {t, args->x, nullptr, nullptr, args->workspace};
        const BnStatus first = launch_moments(moments, stream);
        if (first != BN_SUCCESS) return first;
    }
    const BnStatus status = with_iterator(t.dtype, t.access, [&](auto iterator) {
        using Iter = typename decltype(iterator)::Type;
        if (t.strategy == BN_TWO_PASS) return launch_tiled(normalize_kernel<Iter>, t, stream, *args);
        return with_fused_strategy<Iter>(t.strategy, [&](auto strategy) {
            return launch_tiled(train_fused_kernel<Iter, decltype(strategy)::value>, t, stream, *args);
        });
    });
    return status != BN_SUCCESS ? status : pack_mask(t, args->y, args->relu_mask, stream);
}

extern "C" BnStatus bn_train_prepare(const BnDevice* device, BnResident* resident) {
    const BnStatus status = with_every_iterator(resident, [&](auto iterator) {
        using Iter = typename decltype(iterator)::Type;
        const BnStatus fused = with_every_fused_strategy<Iter>([&](auto strategy) {
            constexpr int kStrategy = decltype(strategy)::value;
            return prepare_fused<kStrategy>(train_fused_kernel<Iter, kStrategy>, "train_fused", *device, resident);
        });
        return fused != BN_SUCCESS ? fused : prepare(normalize_kernel<Iter>, "normalize", *device, resident);
    });
    return status != BN_SUCCESS ? status : prepare_pack_mask(*device, resident);
}
