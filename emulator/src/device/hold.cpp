#include "hold.h"
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include "codes.h"
#include "control.h"
#include "interface.h"

namespace emulator {

constexpr std::chrono::seconds kPatience(60);

static std::mutex mutex;
static std::condition_variable released;

// One call of hold_sms. Given back by any thread.
struct Hold {
    Control* host;
    int multiprocessors;
};

static bool fits(const CudaEmulatorLaunch& r, int device, const Kernel* kernel, int held) {
    const Profile& p = profile(device);
    held = std::min(held, p.multiprocessors);
    const int threads = static_cast<int>(r.block[0] * r.block[1] * r.block[2]);
    const size_t shared = kernel->static_shared + r.dynamic_shared_bytes;
    const uint64_t ctas = r.cooperative ? uint64_t(r.grid[0]) * r.grid[1] * r.grid[2] : 1;
    if (r.cluster[0]) {
        const uint64_t clusters = resident_clusters(p, threads, shared, r.cluster[0], held);
        return clusters * r.cluster[0] >= (r.cooperative ? ctas : r.cluster[0]);
    }
    return static_cast<uint64_t>(resident_blocks(p, threads, shared)) *
               static_cast<uint64_t>(p.multiprocessors - held) >= ctas;
}

int wait_for_room(const CudaEmulatorLaunch& r, int device, const Kernel* kernel) {
    Control& host = control();
    std::unique_lock<std::mutex> lock(mutex);
    if (fits(r, device, kernel, host.held)) return kSuccess;
    host.waits = true;
    const bool room = released.wait_for(lock, kPatience, [&] { return fits(r, device, kernel, host.held); });
    host.waits = false;
    if (room) return kSuccess;
    report("launch of " + kernel_name(r.function) + ": nobody released the multiprocessors it waits for in 60 seconds");
    return kLaunchTimeout;
}

}  // namespace emulator

using emulator::Hold;

EMULATOR_EXPORT void* emulator_hold_sms(unsigned count) {
    Hold* hold = new Hold{&emulator::control(), static_cast<int>(std::min(count, 1u << 16))};
    const std::lock_guard<std::mutex> lock(emulator::mutex);
    hold->host->held += hold->multiprocessors;
    return hold;
}

EMULATOR_EXPORT int emulator_launch_waits(void* held) {
    const std::lock_guard<std::mutex> lock(emulator::mutex);
    return static_cast<Hold*>(held)->host->waits;
}

EMULATOR_EXPORT void emulator_release_sms(void* held) {
    Hold* hold = static_cast<Hold*>(held);
    {
        const std::lock_guard<std::mutex> lock(emulator::mutex);
        hold->host->held -= hold->multiprocessors;
    }
    emulator::released.notify_all();
    delete hold;
}
