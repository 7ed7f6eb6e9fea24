#include "axpy.cuh"

#include "launch.cuh"

extern "C" BnStatus bn_axpy(float* y, const float* x, uint64_t len, float alpha, BnStream stream) {
    constexpr uint64_t kMaxCtas = 1024;
    const uint64_t ctas = min((len + BN_MAX_THREADS - 1) / BN_MAX_THREADS, kMaxCtas);
    return launch(axpy_kernel, static_cast<uint32_t>(ctas), BN_MAX_THREADS, 0, stream, y, x, len, alpha);
}

extern "C" BnStatus bn_axpy_prepare(const BnDevice* device, BnResident* resident) {
    return prepare(axpy_kernel, "axpy", *device, resident);
}
