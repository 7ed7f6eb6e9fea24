#include "launch.h"
#include <sched.h>
#include <cstring>
#include "codes.h"
#include "control.h"
#include "interface.h"
#include "symbols.h"
#include "workers.h"

namespace emulator {

static std::mutex kernels_mutex;
static std::unordered_map<const void*, Kernel> kernels;
static std::atomic<uint32_t> serials{1};

Kernel* find_kernel(const void* function) {
    const std::lock_guard<std::mutex> lock(kernels_mutex);
    const auto found = kernels.find(function);
    return found == kernels.end() ? nullptr : &found->second;
}

int check_architecture(int device) { return profile(device).major < 8 ? kNoBinaryForGpu : kSuccess; }

static int refuse(int code, const CudaEmulatorLaunch& request, const std::string& why) {
    report("launch of " + kernel_name(request.function) + " refused: " + why + " [" + code_name(code) + "]");
    return code;
}

static std::string number(uint64_t value) { return std::to_string(value); }

// Everything that a driver checks before a kernel starts.
static int check(const CudaEmulatorLaunch& r, int device, const Kernel* kernel) {
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
    if (r.cluster[0] && (r.cluster[0] != 1 || r.cluster[1] != 1 || r.cluster[2] != 1)) {
        return refuse(kNotSupported, r, "this emulated device has no clusters");
    }
    const int resident = resident_blocks(p, static_cast<int>(threads),
                                         kernel->static_shared + r.dynamic_shared_bytes);
    if (resident == 0) return refuse(kLaunchOutOfResources, r, "not one CTA fits a multiprocessor");
    if (r.cooperative) {
        if (!p.cooperative) return refuse(kNotSupported, r, "the device has no cooperative launch");
        const uint64_t most = static_cast<uint64_t>(resident) * static_cast<uint64_t>(p.multiprocessors);
        if (ctas > most) {
            return refuse(kCooperativeLaunchTooLarge, r, number(ctas) + " CTAs, " + number(most) + " are resident");
        }
    }
    return kSuccess;
}

static void fill(Launch& l, const CudaEmulatorLaunch& r, const Kernel& kernel, Control& host) {
    l.function = r.function;
    l.invoke = kernel.invoke;
    size_t bytes = 0;
    for (const size_t size : kernel.argument_sizes) bytes += (size + 15) / 16 * 16;
    l.argument_bytes.resize(bytes + 64);
    // Parameters may be aligned to 64 bytes at most.
    const uintptr_t start = (reinterpret_cast<uintptr_t>(l.argument_bytes.data()) + 63) & ~uintptr_t(63);
    char* at = reinterpret_cast<char*>(start);
    for (size_t i = 0; i < kernel.argument_sizes.size(); i++) {
        std::memcpy(at, r.arguments[i], kernel.argument_sizes[i]);
        l.arguments.push_back(at);
        at += (kernel.argument_sizes[i] + 15) / 16 * 16;
    }
    l.arguments.push_back(nullptr);
    std::memcpy(l.grid, r.grid, sizeof(l.grid));
    std::memcpy(l.block, r.block, sizeof(l.block));
    l.ctas = r.grid[0] * r.grid[1] * r.grid[2];
    l.threads = r.block[0] * r.block[1] * r.block[2];
    l.dynamic_shared = r.dynamic_shared_bytes;
    l.device = host.device;
    l.cooperative = r.cooperative != 0;
    l.races = host.races;
    Random random{host.seed * 0x2545f4914f6cdd1du + host.launches_since_seed++};
    l.seed = random.next();
    l.first_serial = serials.fetch_add(l.ctas);
    l.unfinished = l.ctas;
    l.order.resize(l.threads);
    for (unsigned i = 0; i < l.threads; i++) {
        const unsigned other = random.below(i + 1);
        l.order[i] = l.order[other];
        l.order[other] = static_cast<uint16_t>(i);
    }
}

static void run_serially(Launch& l) {
    Cta* c = borrow_cta(l.device);
    if (!c) {
        l.code = kOutOfMemory;
        return;
    }
    // Affine, with a step that has no divisor in common with the number: visits every CTA once, from a seeded start.
    Random random{l.seed};
    uint64_t step = random.below(l.ctas) | 1u;
    const auto gcd = [](uint64_t a, uint64_t b) {
        while (b) {
            const uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        return a;
    };
    while (gcd(step, l.ctas) != 1) step += 2;
    uint64_t rank = random.below(l.ctas);
    for (uint32_t i = 0; i < l.ctas && !l.aborted; i++) {
        run_cta(c, &l, static_cast<uint32_t>(rank));
        l.unfinished--;
        rank = (rank + step) % l.ctas;
    }
    return_cta(c);
}

static void run_cooperatively(Launch& l) {
    const uint32_t first = Random{l.seed}.below(l.ctas);
    run_concurrently(l.ctas, [&](uint32_t i) {
        const uint32_t rank = (i + first) % l.ctas;
        Random stagger{l.seed + rank};
        for (uint32_t yields = stagger.below(4); yields > 0; yields--) sched_yield();
        Cta* c = borrow_cta(l.device);
        if (!c) {
            const std::lock_guard<std::mutex> lock(l.mutex);
            l.code = kOutOfMemory;
            l.aborted = true;
            return;
        }
        c->stuck_at = 0;
        {
            const std::lock_guard<std::mutex> lock(l.mutex);
            l.running.push_back(c);
        }
        run_cta(c, &l, rank);
        {
            const std::lock_guard<std::mutex> lock(l.mutex);
            for (size_t at = 0; at < l.running.size(); at++) {
                if (l.running[at] == c) {
                    l.running.erase(l.running.begin() + static_cast<long>(at));
                    break;
                }
            }
            l.unfinished--;
            l.progress++;
        }
        return_cta(c);
    });
}

int run_launch(const CudaEmulatorLaunch& request) {
    Control& host = control();
    host.launches++;
    const Kernel* kernel = find_kernel(request.function);
    if (const int code = check(request, host.device, kernel)) return code;
    Launch l;
    fill(l, request, *kernel, host);
    if (l.cooperative) {
        run_cooperatively(l);
    } else {
        run_serially(l);
    }
    host.loaded += l.loaded;
    host.stored += l.stored;
    if (l.code) {
        host.sticky = l.code;
        report(l.report);
    }
    return l.code;
}

}  // namespace emulator

EMULATOR_EXPORT void emulator_register_kernel(const CudaEmulatorKernel* kernel) {
    using namespace emulator;
    const std::lock_guard<std::mutex> lock(kernels_mutex);
    Kernel& entry = kernels[kernel->function];
    if (entry.invoke) return;
    entry.invoke = kernel->invoke;
    entry.argument_sizes.assign(kernel->argument_sizes, kernel->argument_sizes + kernel->argument_count);
    entry.static_shared = static_shared_bytes(reinterpret_cast<uintptr_t>(kernel->function));
    for (size_t& limit : entry.dynamic_shared_limit) limit = kSharedPerBlock - entry.static_shared;
}
