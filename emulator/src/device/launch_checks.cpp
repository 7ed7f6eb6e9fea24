// Everything that a driver checks before a kernel starts.
#include <algorithm>
#include "codes.h"
#include "control.h"
#include "launch.h"

namespace emulator {

int check_architecture(int device) { return profile(device).major < 8 ? kNoBinaryForGpu : kSuccess; }

static int refuse(int code, const CudaEmulatorLaunch& request, const std::string& why) {
    report("launch of " + kernel_name(request.function) + " refused: " + why + " [" + code_name(code) + "]");
    return code;
}

static std::string number(uint64_t value) { return std::to_string(value); }

static int check_cluster(const CudaEmulatorLaunch& r, const Profile& p, bool nonportable) {
    if (!p.has_clusters()) return refuse(kNotSupported, r, "the device has no clusters");
    if (r.cluster[1] != 1 || r.cluster[2] != 1) {
        return refuse(kNotSupported, r, "this emulated device has clusters along x only");
    }
    const unsigned size = r.cluster[0], most = nonportable ? kMostClusterSize : kMostPortableClusterSize;
    if (size > most) {
        return refuse(kInvalidClusterSize, r, "a cluster of " + number(size) + " CTAs, " + number(most) +
                      (nonportable ? " are the limit" : " are portable, and more were not allowed by an attribute"));
    }
    if (r.grid[0] % size != 0) {
        return refuse(kInvalidClusterSize, r, "a grid of " + number(r.grid[0]) + " CTAs is no multiple of clusters of " +
                      number(size));
    }
    return kSuccess;
}

int check_launch(const CudaEmulatorLaunch& r, int device, const Kernel* kernel) {
    const Profile& p = profile(device);
    if (!kernel) {
        return refuse(kInvalidDeviceFunction, r, "only its bare address is known; name it by its type in a launch once");
    }
    if (const int code = check_architecture(device)) return refuse(code, r, "the device is older than sm_80");
    const unsigned limits[3] = {1024, 1024, 64}, grid_limits[3] = {2147483647u, 65535, 65535};
    uint64_t threads = 1, ctas = 1;
    for (int i = 0; i < 3; i++) {
        if (r.block[i] == 0 || r.block[i] > limits[i] || r.grid[i] == 0 || r.grid[i] > grid_limits[i]) {
            return refuse(kInvalidConfiguration, r, "grid " + number(r.grid[0]) + "x" + number(r.grid[1]) + "x" +
                          number(r.grid[2]) + " of " + number(r.block[0]) + "x" + number(r.block[1]) + "x" +
                          number(r.block[2]) + " threads is out of limits");
        }
        threads *= r.block[i];
        ctas *= r.grid[i];
    }
    if (threads > kMaxThreadsPerBlock) {
        return refuse(kInvalidConfiguration, r, number(threads) + " threads a CTA, 1024 are the limit");
    }
    if (ctas > 0x7fffffffu) return refuse(kInvalidConfiguration, r, "more CTAs than the emulated device counts");
    if (r.dynamic_shared_bytes > kernel->dynamic_shared_limit[device]) {
        return refuse(kInvalidValue, r, number(r.dynamic_shared_bytes) + " bytes of dynamic shared memory, " +
                      number(kernel->dynamic_shared_limit[device]) + " are allowed (opted in for)");
    }
    const size_t shared = kernel->static_shared + r.dynamic_shared_bytes;
    const int resident = resident_blocks(p, static_cast<int>(threads), shared);
    if (resident == 0) return refuse(kLaunchOutOfResources, r, "not one CTA fits a multiprocessor");
    uint64_t most = static_cast<uint64_t>(resident) * static_cast<uint64_t>(p.multiprocessors);
    if (r.cluster[0]) {
        if (const int code = check_cluster(r, p, kernel->nonportable_clusters[device])) return code;
        const unsigned size = r.cluster[0];
        const uint64_t clusters = resident_clusters(p, static_cast<int>(threads), shared, size, 0);
        if (clusters == 0) {
            return refuse(kInvalidClusterSize, r, "a cluster of " + number(size) + " CTAs, " + number(resident) +
                          " a multiprocessor, does not fit the " + number(*std::max_element(p.gpcs, p.gpcs + kMostGpcs)) +
                          " multiprocessors of a GPC");
        }
        most = clusters * size;
    }
    if (r.programmatic && p.major < 9) {
        return refuse(kNotSupported, r, "the device has no programmatic dependent launch");
    }
    if (r.cooperative) {
        if (!p.cooperative) return refuse(kNotSupported, r, "the device has no cooperative launch");
        if (ctas > most) {
            return refuse(kCooperativeLaunchTooLarge, r, number(ctas) + " CTAs, " + number(most) + " are resident");
        }
    }
    return kSuccess;
}

}  // namespace emulator
