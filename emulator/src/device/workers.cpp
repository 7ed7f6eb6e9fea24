#include "workers.h"
#include <link.h>
#include <sys/mman.h>
#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include "interface.h"
#include "launch.h"
#include "memory.h"

namespace emulator {

static std::mutex mutex;
static std::vector<Cta*> idle_ctas;
static size_t ctas_made = 0;
static size_t reserved = 0;
static std::condition_variable given_back;
static CudaEmulatorPosition (*position_of_this_thread)(void) = nullptr;

uintptr_t image_begin = 0, image_end = 0;

static void* pages(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : at;
}

static Cta* make_cta() {
    if (ctas_made == kWorkers) return nullptr;
    Cta* c = new Cta();
    c->worker = ctas_made;
    c->stacks = static_cast<char*>(pages(kMaxThreadsPerBlock * kStackStride));
    c->fibers = static_cast<Fiber*>(pages(kMaxThreadsPerBlock * sizeof(Fiber)));
    c->traffic = static_cast<uint64_t*>(pages(2 * kMaxAllocations * sizeof(uint64_t)));
    if (!c->stacks || !c->fibers || !c->traffic) return nullptr;
    ctas_made++;
    return c;
}

struct ThreadLocals {
    uintptr_t begin;
    size_t bytes;
};

// The executable's thread-local block of the calling thread: where `static thread_local` and so `__shared__` live.
static const ThreadLocals& thread_locals() {
    static thread_local ThreadLocals mine = {0, 0};
    if (mine.begin == 0) {
        dl_iterate_phdr(
            [](dl_phdr_info* info, size_t, void* to) {
                ThreadLocals* locals = static_cast<ThreadLocals*>(to);
                for (int i = 0; i < info->dlpi_phnum; i++) {
                    if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
                    locals->begin = reinterpret_cast<uintptr_t>(info->dlpi_tls_data);
                    locals->bytes = info->dlpi_phdr[i].p_memsz;
                }
                return 1;  // the first object is the executable
            },
            &mine);
    }
    return mine;
}

static void find_image() {
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void*) {
            for (int i = 0; i < info->dlpi_phnum; i++) {
                const auto& segment = info->dlpi_phdr[i];
                if (segment.p_type != PT_LOAD) continue;
                const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
                if (image_begin == 0 || begin < image_begin) image_begin = begin;
                if (begin + segment.p_memsz > image_end) image_end = begin + segment.p_memsz;
            }
            return 1;
        },
        nullptr);
}

Reservation::Reservation(uint32_t ctas) : ctas_(ctas), made_(ctas <= kWorkers) {
    if (!made_) return;
    std::unique_lock<std::mutex> lock(mutex);
    given_back.wait(lock, [this] { return reserved + ctas_ <= kWorkers; });
    reserved += ctas_;
}

Reservation::~Reservation() {
    if (!made_) return;
    {
        const std::lock_guard<std::mutex> lock(mutex);
        reserved -= ctas_;
    }
    given_back.notify_all();
}

Cta* borrow_cta(int device) {
    Cta* c = nullptr;
    {
        const std::lock_guard<std::mutex> lock(mutex);
        if (image_end == 0) find_image();
        if (!idle_ctas.empty()) {
            c = idle_ctas.back();
            idle_ctas.pop_back();
        } else {
            c = make_cta();
        }
    }
    if (!c) return nullptr;
    c->global_begin = arena.base + arena.device_begin[device];
    c->all_global_bytes = arena.device_end[device] - arena.device_begin[device];
    c->shared_begin = arena.base + window_offset(c->worker);
    const ThreadLocals& locals = thread_locals();
    c->static_begin = locals.begin;
    c->static_bytes = std::min(locals.bytes, kWindowBytes - kStaticWindow);
    c->static_shadow = window_offset(c->worker) + kStaticWindow;
    if (c->static_ready != c->static_bytes) {  // later on, each CTA cleans up behind itself
        std::memset(arena.state + c->static_shadow, kPoison, c->static_bytes);
        c->static_ready = c->static_bytes;
    }
    c->position = position_of_this_thread();
    return c;
}

void return_cta(Cta* c) {
    for (const uint32_t slot : c->slots_touched) {
        uint64_t* counts = c->traffic + 2 * slot;
        allocation(slot).loaded += counts[0];
        allocation(slot).stored += counts[1];
        c->launch->loaded += counts[0];
        c->launch->stored += counts[1];
        counts[0] = counts[1] = 0;
    }
    c->slots_touched.clear();
    if (c->counts_wavefronts) {
        const std::lock_guard<std::mutex> lock(c->launch->mutex);
        add(&c->launch->wavefronts, c->wavefronts);
        c->wavefronts.clear();
    }
    const std::lock_guard<std::mutex> lock(mutex);
    idle_ctas.push_back(c);
}

// A thread that waits for something to do. They are never joined: they end with the process.
struct Helper {
    std::mutex mutex;
    std::condition_variable wake;
    std::function<void()> work;
};
static std::vector<Helper*> idle_helpers;

static void help(Helper* h) {
    while (true) {
        std::function<void()> work;
        {
            std::unique_lock<std::mutex> lock(h->mutex);
            h->wake.wait(lock, [h] { return static_cast<bool>(h->work); });
            work = std::move(h->work);
            h->work = nullptr;
        }
        work();
    }
}

static Helper* borrow_helper() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!idle_helpers.empty()) {
        Helper* h = idle_helpers.back();
        idle_helpers.pop_back();
        return h;
    }
    Helper* h = new Helper();
    std::thread(help, h).detach();
    return h;
}

void run_concurrently(uint32_t n, const std::function<void(uint32_t)>& body) {
    std::mutex done_mutex;
    std::condition_variable done;
    uint32_t left = n - 1;
    for (uint32_t i = 1; i < n; i++) {
        Helper* h = borrow_helper();
        {
            const std::lock_guard<std::mutex> lock(h->mutex);
            h->work = [&, h, i] {
                body(i);
                {
                    const std::lock_guard<std::mutex> idle(mutex);
                    idle_helpers.push_back(h);
                }
                const std::lock_guard<std::mutex> finished(done_mutex);
                if (--left == 0) done.notify_one();
            };
        }
        h->wake.notify_one();
    }
    body(0);
    std::unique_lock<std::mutex> lock(done_mutex);
    done.wait(lock, [&] { return left == 0; });
}

}  // namespace emulator

EMULATOR_EXPORT void emulator_set_position(CudaEmulatorPosition (*of_this_thread)(void)) {
    emulator::position_of_this_thread = of_this_thread;
}
