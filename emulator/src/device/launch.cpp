#include "launch.h"
#include <sched.h>
#include <algorithm>
#include <cstring>
#include <functional>
#include "cluster.h"
#include "codes.h"
#include "control.h"
#include "dump.h"
#include "hold.h"
#include "interface.h"
#include "symbols.h"
#include "wait.h"
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
    l.cluster_size = r.cluster[0] ? r.cluster[0] : 1;
    l.device = host.device;
    l.cooperative = r.cooperative != 0;
    l.programmatic = r.programmatic != 0;
    l.races = host.races;
    l.counts_wavefronts = host.counts_wavefronts;
    Random random{host.seed * 0x2545f4914f6cdd1du + host.launches_since_seed++};
    l.seed = random.next();
    l.first_serial = serials.fetch_add(2 * l.ctas);
    l.order.resize(l.threads);
    for (unsigned i = 0; i < l.threads; i++) {
        const unsigned other = random.below(i + 1);
        l.order[i] = l.order[other];
        l.order[other] = static_cast<uint16_t>(i);
    }
}

// Visits every number below n once, from a seeded start, by a step that has no divisor in common with n.
static void in_seeded_order(uint64_t seed, uint64_t n, const std::function<bool(uint32_t)>& visit) {
    Random random{seed};
    uint64_t step = random.below(static_cast<uint32_t>(n)) | 1u;
    const auto gcd = [](uint64_t a, uint64_t b) {
        while (b) {
            const uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        return a;
    };
    while (gcd(step, n) != 1) step += 2;
    uint64_t at = random.below(static_cast<uint32_t>(n));
    for (uint64_t i = 0; i < n && visit(static_cast<uint32_t>(at)); i++) at = (at + step) % n;
}

static void out_of_workers(Launch& l) {
    const std::lock_guard<std::mutex> lock(l.mutex);
    l.code = kOutOfMemory;
    l.aborted = true;
    moved(l);
}

static void begin(Launch& l, Cta* c) {
    const std::lock_guard<std::mutex> lock(l.mutex);
    l.running.push_back(c);
}

static void end(Launch& l, Cta* c) {
    const std::lock_guard<std::mutex> lock(l.mutex);
    l.running.erase(std::find(l.running.begin(), l.running.end(), c));
    l.unfinished--;
    moved(l);
}

// One CTA after the other: nobody was promised more.
static void run_serially(Launch& l) {
    const Reservation one(1);
    Cta* c = borrow_cta(l.device);
    if (!c) return out_of_workers(l);
    in_seeded_order(l.seed, l.ctas, [&](uint32_t rank) {
        Cluster alone(1);
        alone.live = l.threads;
        l.unfinished = 1;
        begin(l, c);
        run_cta(c, &l, rank, &alone);
        end(l, c);
        return !l.aborted;
    });
    return_cta(c);
}

// CTAs [first, first + n) at the same time, each on an OS thread, in `clusters` of the launch's size.
static void run_together(Launch& l, uint32_t first, uint32_t n, std::deque<Cluster>& clusters) {
    const Reservation all(n);
    if (!all.is_made()) return out_of_workers(l);
    for (uint32_t i = 0; i < n / l.cluster_size; i++) {
        clusters.emplace_back(l.cluster_size);
        clusters.back().live = l.threads * l.cluster_size;
    }
    l.unfinished = n;
    const uint32_t rotation = Random{l.seed + first}.below(n);
    run_concurrently(n, [&](uint32_t i) {
        const uint32_t at = (i + rotation) % n, rank = first + at;
        Random stagger{l.seed + rank};
        for (uint32_t yields = stagger.below(4); yields > 0; yields--) sched_yield();
        Cta* c = borrow_cta(l.device);
        if (!c) return out_of_workers(l);
        begin(l, c);
        run_cta(c, &l, rank, &clusters[at / l.cluster_size]);
        end(l, c);
        return_cta(c);
    });
}

// One cluster after the other, the CTAs of each at the same time.
static void run_clusters(Launch& l) {
    in_seeded_order(l.seed, l.ctas / l.cluster_size, [&](uint32_t cluster) {
        std::deque<Cluster> one;
        run_together(l, cluster * l.cluster_size, l.cluster_size, one);
        return !l.aborted;
    });
}

static void run_cooperatively(Launch& l) {
    std::deque<Cluster> clusters;
    run_together(l, 0, l.ctas, clusters);
}

int run_launch(const CudaEmulatorLaunch& request) {
    Control& host = control();
    host.launches++;
    const Kernel* kernel = find_kernel(request.function);
    if (const int code = check_launch(request, host.device, kernel)) return code;
    if (const int code = wait_for_room(request, host.device, kernel)) return code;
    Launch l;
    fill(l, request, *kernel, host);
    Dump dump(request, *kernel, host.device);
    if (l.cooperative) {
        run_cooperatively(l);
    } else if (l.cluster_size > 1) {
        run_clusters(l);
    } else {
        run_serially(l);
    }
    dump.finish(l.code);
    host.loaded += l.loaded;
    host.stored += l.stored;
    add(&host.wavefronts, l.wavefronts);
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
    const uintptr_t address = reinterpret_cast<uintptr_t>(kernel->function);
    uintptr_t offset = 0;
    entry.invoke = kernel->invoke;
    entry.name = symbol_at(address, &offset);
    entry.build = kernel->build;
    entry.argument_sizes.assign(kernel->argument_sizes, kernel->argument_sizes + kernel->argument_count);
    entry.static_shared = static_shared_bytes(address);
    for (size_t& limit : entry.dynamic_shared_limit) limit = kSharedPerBlock - entry.static_shared;
}
