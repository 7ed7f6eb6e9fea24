#include "profile.h"
#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace emulator {

constexpr int kKb = 1024;
constexpr size_t kMb = size_t(1) << 20;
constexpr size_t kGb = size_t(1) << 30;

// Limits a multiprocessor and a CTA are those of the architecture; the number of multiprocessors is small, so that a
// grid that fills the device stays small as well. All of them are one GPC, as large as a small one of a GPU. The last
// profile is as large as an H100 with SXM5, whose GPCs have lost multiprocessors here and there: which ones differs from one
// board to the next.
static const Profile kProfiles[kProfileCount] = {
    {"hopper4", 9, 0, 4, 2048, 32, 228 * kKb, 227 * kKb, 8 << 20, 2619000, 5120, true, 8 * kGb, {4}},
    {"a100like", 8, 0, 6, 2048, 32, 164 * kKb, 163 * kKb, 6 << 20, 1215000, 5120, true, 8 * kGb, {}},
    {"ada99", 8, 9, 4, 1536, 24, 100 * kKb, 99 * kKb, 8 << 20, 10501000, 384, true, 4 * kGb, {}},
    {"nocoop", 8, 6, 4, 1536, 16, 100 * kKb, 99 * kKb, 4 << 20, 9501000, 384, false, 4 * kGb, {}},
    {"turing", 7, 5, 4, 1024, 16, 64 * kKb, 64 * kKb, 4 << 20, 7001000, 352, true, 1 * kGb, {}},
    {"memory", 9, 0, 4, 2048, 32, 228 * kKb, 227 * kKb, 8 << 20, 2619000, 5120, true, 64 * kMb, {4}},
    {"h100", 9, 0, 132, 2048, 32, 228 * kKb, 227 * kKb, 50 << 20, 2619000, 5120, true, 8 * kGb,
     {18, 18, 18, 16, 16, 16, 16, 14}},
};

static int first_profile() {
    const char* name = std::getenv("CUDA_EMULATOR_PROFILE");
    for (int i = 0; name && i < kProfileCount; i++) {
        if (std::strcmp(name, kProfiles[i].name) == 0) return i;
    }
    return 0;
}

const Profile& profile(int ordinal) {
    static const int first = first_profile();
    if (ordinal == 0) return kProfiles[first];
    return kProfiles[ordinal <= first ? ordinal - 1 : ordinal];
}

// A device that is a share of another has neither cooperative launch nor memory pools.
bool has_memory_pools(const Profile& p) { return p.cooperative; }

bool device_attribute(const Profile& p, int attribute, int ordinal, int* value) {
    switch (attribute) {
        case 1: *value = kMaxThreadsPerBlock; return true;
        case 2: *value = 1024; return true;  // MAX_BLOCK_DIM_X
        case 3: *value = 1024; return true;
        case 4: *value = 64; return true;
        case 5: *value = 2147483647; return true;  // MAX_GRID_DIM_X
        case 6: *value = 65535; return true;
        case 7: *value = 65535; return true;
        case 8: *value = kSharedPerBlock; return true;
        case 9: *value = 65536; return true;  // TOTAL_CONSTANT_MEMORY
        case 10: *value = kWarpSize; return true;
        case 11: *value = 2147483647; return true;  // MAX_PITCH
        case 12: *value = kRegistersPerMultiprocessor; return true;
        case 13: *value = 1000000; return true;  // CLOCK_RATE, kHz
        case 14: *value = 512; return true;      // TEXTURE_ALIGNMENT
        case 16: *value = p.multiprocessors; return true;
        case 31: *value = 1; return true;  // CONCURRENT_KERNELS
        case 33: *value = ordinal; return true;  // PCI_BUS_ID
        case 36: *value = p.memory_clock_khz; return true;
        case 37: *value = p.bus_bits; return true;
        case 38: *value = p.l2_bytes; return true;
        case 39: *value = p.threads_per_multiprocessor; return true;
        case 40: *value = 1; return true;  // ASYNC_ENGINE_COUNT
        case 41: *value = 1; return true;  // UNIFIED_ADDRESSING
        case 75: *value = p.major; return true;
        case 76: *value = p.minor; return true;
        case 78: *value = 1; return true;  // STREAM_PRIORITIES_SUPPORTED
        case 81: *value = p.shared_per_multiprocessor; return true;
        case 82: *value = kRegistersPerMultiprocessor; return true;
        case 95: *value = p.cooperative; return true;
        case 97: *value = p.shared_opt_in; return true;
        case 106: *value = p.blocks_per_multiprocessor; return true;
        case 111: *value = kReservedSharedPerBlock; return true;
        case 115: *value = has_memory_pools(p); return true;
        case 120: *value = p.has_clusters(); return true;  // CLUSTER_LAUNCH
        case 15: case 17: case 18: case 19: case 20: case 32: case 34: case 35: case 50: case 83: case 84: case 85:
        case 86: case 88: case 89: case 90: case 91: case 96: case 98: case 99: case 100: case 101: case 102: case 107:
        case 108: case 109: case 110: case 112: case 116: case 119:
            *value = 0;  // features that this device does not have
            return true;
        default: return false;
    }
}

int resident_blocks(const Profile& p, int threads, size_t shared_bytes) {
    if (threads <= 0 || threads > kMaxThreadsPerBlock) return 0;
    const int warps = (threads + kWarpSize - 1) / kWarpSize;
    const int by_threads = p.threads_per_multiprocessor / (warps * kWarpSize);
    const int by_registers = kRegistersPerMultiprocessor / (warps * kWarpSize * kRegistersPerThread);
    // Shared memory is given out in units of 128 bytes.
    const size_t shared = (shared_bytes + kReservedSharedPerBlock + 127) / 128 * 128;
    const int by_shared = static_cast<int>(static_cast<size_t>(p.shared_per_multiprocessor) / shared);
    return std::min({p.blocks_per_multiprocessor, by_threads, by_registers, by_shared});
}

unsigned resident_clusters(const Profile& p, int threads, size_t shared_bytes, unsigned size, int held) {
    const int resident = resident_blocks(p, threads, shared_bytes);
    unsigned clusters = 0;
    for (const int gpc : p.gpcs) {
        const int lost = std::min(held, gpc);
        held -= lost;
        clusters += static_cast<unsigned>((gpc - lost) * resident) / size;
    }
    return clusters;
}

}  // namespace emulator
