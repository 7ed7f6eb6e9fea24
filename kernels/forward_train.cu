#include "forward_train.cuh"

#include "forward_moments.cuh"
#include "forward_train_block.cuh"
#include "launch.cuh"
#include "mask.cuh"

extern "C" BnStatus bn_moments(const BnMoments* args, void* stream) {
    const BnTiling& t = args->tiling;
    const BnStatus status = with_owner(t.dtype, t.form, [&](auto owner) {
        using Owner = typename decltype(owner)::Type;
        return launch_tiled(moments_kernel<Owner>, t, stream, t, args->x, args->workspace);
    });
    if (status != BN_SUCCESS) return status;
    const uint32_t ctas = (t.channels + BN_MAX_THREADS / kWarp - 1) / (BN_MAX_THREADS / kWarp);
    return launch(moments_finish_kernel, ctas, BN_MAX_THREADS, 0, stream, *args);
}

extern "C" BnStatus bn_train(const BnTrain* args, void* stream) {
    const BnTiling& t = args->tiling;
    const BnStatus status = with_owner(t.dtype, t.form, [&](auto owner) {
        using Owner = typename decltype(owner)::Type;
        if (args->strategy == BN_BLOCK) return launch_tiled(train_block_kernel<Owner>, t, stream, *args);
        const BnStatus first = launch_tiled(moments_kernel<Owner>, t, stream, t, args->x, args->workspace);
        if (first != BN_SUCCESS) return first;
        return launch_tiled(train_second_kernel<Owner>, t, stream, *args);
    });
    return status != BN_SUCCESS ? status : pack_mask(t, args->y, args->relu_mask, stream);
}

extern "C" BnStatus bn_moments_prepare(uint32_t shared_bytes, BnResident* resident) {
    const BnStatus status = with_every_owner([&](auto owner) {
        return prepare(moments_kernel<typename decltype(owner)::Type>, shared_bytes, resident);
    });
    return status != BN_SUCCESS ? status : prepare(moments_finish_kernel, shared_bytes, resident);
}

extern "C" BnStatus bn_train_prepare(uint32_t shared_bytes, BnResident* resident) {
    const BnStatus status = with_every_owner([&](auto owner) {
        using Owner = typename decltype(owner)::Type;
        const BnStatus block = prepare(train_block_kernel<Owner>, shared_bytes, resident);
        return block != BN_SUCCESS ? block : prepare(train_second_kernel<Owner>, shared_bytes, resident);
    });
    return status != BN_SUCCESS ? status : prepare_pack_mask(shared_bytes, resident);
}
