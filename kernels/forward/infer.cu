#include "infer.cuh"

#include "../common/launch.cuh"
#include "pack_mask.cuh"

extern "C" BnStatus bn_infer(const BnInfer* args, BnStream stream) {
    const BnTiling& t = args->tiling;
    const BnStatus status = with_iterator(t.dtype, t.access, [&](auto iterator) {
        return launch_tiled(infer_kernel<typename decltype(iterator)::Type>, t, stream, *args);
    });
    return status != BN_SUCCESS ? status : pack_mask(t, args->y, args->relu_mask, stream);
}

extern "C" BnStatus bn_infer_prepare(const BnDevice* device, BnResident* resident) {
    const BnStatus status = with_every_iterator(resident, [&](auto iterator) {
        return prepare(infer_kernel<typename decltype(iterator)::Type>, "infer", *device, resident);
    });
    return status != BN_SUCCESS ? status : prepare_pack_mask(*device, resident);
}
