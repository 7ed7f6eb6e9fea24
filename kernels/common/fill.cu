#include "fill.cuh"

#include "launch.cuh"

extern "C" BnStatus bn_fill(float* out, uint64_t len, float value, BnStream stream) {
    constexpr uint64_t kMaxCtas = 1024;
    const uint64_t ctas = min((len + BN_MAX_THREADS - 1) / BN_MAX_THREADS, kMaxCtas);
    return launch(fill_kernel, static_cast<uint32_t>(ctas), BN_MAX_THREADS, 0, stream, out, len, value);
}

extern "C" BnStatus bn_fill_prepare(const BnDevice* device, BnResident* resident) {
    return prepare(fill_kernel, "fill", *device, resident);
}
