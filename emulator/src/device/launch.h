// A grid in flight.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>
#include "cta.h"

namespace emulator {

struct Kernel {
    CudaEmulatorInvoke invoke = nullptr;
    std::string name;   // mangled; empty where the executable has no symbol for it
    std::string build;  // of its translation unit
    std::vector<size_t> argument_sizes;
    size_t static_shared = 0;
    // The limits that cudaFuncSetAttribute set, by device.
    size_t dynamic_shared_limit[kProfileCount];
    bool nonportable_clusters[kProfileCount] = {};
};

// A word that CTAs synchronise by.
struct SyncWord {
    Knowledge released;
    std::shared_ptr<const Knowledge> snapshot;  // the same, for those who acquire it; null since it last changed
    uint64_t version = 0;
};

// Sixteen bytes that CTAs exchange by store_tagged and load_tagged.
struct TaggedSlot {
    uint64_t writer = 0;            // the stamp of the last store; 0: none in this launch
    std::vector<uint64_t> readers;  // the stamps of who took what it stored
    std::vector<unsigned> tags;     // of all that was stored in this launch
    std::shared_ptr<const Knowledge> knowledge;
};

struct Launch {
    const void* function = nullptr;
    CudaEmulatorInvoke invoke = nullptr;
    std::vector<char> argument_bytes;
    std::vector<void*> arguments;
    unsigned grid[3], block[3];
    uint32_t ctas = 0;
    unsigned threads = 0;
    size_t dynamic_shared = 0;
    unsigned cluster_size = 1;
    int device = 0;
    bool cooperative = false;
    bool programmatic = false;
    bool races = true;
    bool counts_wavefronts = false;
    uint64_t seed = 0;
    uint32_t first_serial = 0;
    std::vector<uint16_t> order;  // in which a CTA's threads start, to be rotated by each

    std::atomic<bool> aborted{false};
    std::mutex mutex;  // of all below
    int code = 0;
    std::string report;
    std::unordered_map<uintptr_t, SyncWord> words;
    std::unordered_map<uintptr_t, TaggedSlot> tagged;
    std::atomic<uint64_t> progress{1};  // moves whenever something happens that another CTA may wait for
    // The CTAs that are promised to run at the same time: the whole grid if it is cooperative, else one cluster.
    uint32_t unfinished = 0;    // have not ended, begun or not
    uint32_t parked = 0;        // sleep
    std::vector<Cta*> running;  // have begun and not ended
    std::atomic<uint64_t> loaded{0}, stored{0};
    WavefrontCounts wavefronts;
};

// Turns a CTA's fault into the launch's, if it is the first.
void record_fault(Cta* c);
std::string kernel_name(const void* function);
// "in <function> +0x12", as far as symbols tell.
std::string code_place(const void* pc);

int run_launch(const CudaEmulatorLaunch& request);
// Everything that a driver checks before a kernel starts.
int check_launch(const CudaEmulatorLaunch& request, int device, const Kernel* kernel);
// Null where the address is not a known kernel's.
Kernel* find_kernel(const void* function);
// kNoBinaryForGpu on devices older than sm_80, for which nothing here pretends to be compiled.
int check_architecture(int device);

}  // namespace emulator
