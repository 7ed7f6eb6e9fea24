// The emulated devices: one a profile.
#pragma once
#include <stddef.h>

namespace emulator {

constexpr int kMostGpcs = 8;

struct Profile {
    const char* name;
    int major, minor;
    int multiprocessors;
    int threads_per_multiprocessor, blocks_per_multiprocessor;
    int shared_per_multiprocessor, shared_opt_in;  // bytes
    int l2_bytes, memory_clock_khz, bus_bits;
    bool cooperative;
    size_t memory_bytes;
    // Multiprocessors of each GPC, which a cluster's CTAs must share; all 0: no clusters.
    int gpcs[kMostGpcs];

    bool has_clusters() const { return gpcs[0] > 0; }
};

constexpr int kProfileCount = 7;
constexpr int kWarpSize = 32;
constexpr int kMaxThreadsPerBlock = 1024;
constexpr int kRegistersPerMultiprocessor = 65536;
constexpr int kSharedPerBlock = 48 * 1024;
constexpr int kReservedSharedPerBlock = 1024;
// g++ allocates no GPU registers: every kernel is taken to need this many a thread.
constexpr int kRegistersPerThread = 64;

constexpr unsigned kMostPortableClusterSize = 8;
constexpr unsigned kMostClusterSize = 16;  // where the kernel allows it

// The profile of a device ordinal: in the order of the table, but CUDA_EMULATOR_PROFILE comes first.
const Profile& profile(int ordinal);
// False for attributes that this device does not know.
bool device_attribute(const Profile& profile, int attribute, int ordinal, int* value);
// Whether memory can be allocated in the order of a stream.
bool has_memory_pools(const Profile& profile);
// CTAs that fit one multiprocessor at a time.
int resident_blocks(const Profile& profile, int threads, size_t shared_bytes);
// Clusters that fit the device at a time, while others hold `held` of its multiprocessors.
unsigned resident_clusters(const Profile& profile, int threads, size_t shared_bytes, unsigned size, int held);

}  // namespace emulator
