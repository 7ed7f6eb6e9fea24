// Words for what went wrong in a kernel.
#include <cxxabi.h>
#include <cstdio>
#include <cstdlib>
#include "codes.h"
#include "launch.h"
#include "memory.h"
#include "symbols.h"
#include "wait.h"

namespace emulator {

static std::string demangled(const std::string& name) {
    int status = 0;
    char* plain = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
    std::string result = status == 0 && plain ? plain : name;
    std::free(plain);
    return result;
}

std::string kernel_name(const void* function) {
    uintptr_t offset = 0;
    const std::string name = symbol_at(reinterpret_cast<uintptr_t>(function), &offset);
    return name.empty() ? "a kernel without a symbol" : demangled(name);
}

std::string code_place(const void* pc) {
    if (!pc) return "";
    char text[64];
    uintptr_t offset = 0;
    const std::string name = symbol_at(reinterpret_cast<uintptr_t>(pc), &offset);
    std::snprintf(text, sizeof(text), " (code at 0x%zx", static_cast<size_t>(image_offset(pc)));
    return text + (name.empty() ? ")" : " in " + demangled(name) + ")");
}

static std::string thread_text(const Launch& l, uint32_t rank, unsigned thread) {
    char text[160];
    std::snprintf(text, sizeof(text), "CTA (%u,%u,%u) thread (%u,%u,%u)", rank % l.grid[0],
                  rank / l.grid[0] % l.grid[1], rank / l.grid[0] / l.grid[1], thread % l.block[0],
                  thread / l.block[0] % l.block[1], thread / l.block[0] / l.block[1]);
    return text;
}

static std::string address_text(const Cta* c, const void* address) {
    const uintptr_t a = reinterpret_cast<uintptr_t>(address);
    char text[200];
    if (a - c->shared_begin < kStaticWindow) {
        std::snprintf(text, sizeof(text), "byte %zu of %zu of dynamic shared memory",
                      static_cast<size_t>(a - c->shared_begin), c->shared_bytes);
    } else if (a - c->static_begin < c->static_bytes) {
        uintptr_t offset = 0;
        const std::string name = thread_local_at(a - c->static_begin, &offset);
        std::snprintf(text, sizeof(text), "byte %zu of shared variable %s", static_cast<size_t>(offset),
                      name.empty() ? "(without a symbol)" : demangled(name).c_str());
    } else {
        describe_address(a, text, sizeof(text));
    }
    return text;
}

// The states of the CTA's threads, for the report of a deadlock.
static std::string waiting_text(const Cta* c) {
    unsigned barrier = 0, collective = 0, outside = 0, exited = 0;
    for (unsigned i = 0; i < c->threads; i++) {
        barrier += c->fibers[i].wait == Wait::kBlockBarrier;
        collective += c->fibers[i].wait == Wait::kCollective;
        outside += c->fibers[i].wait == Wait::kOutside;
        exited += c->fibers[i].wait == Wait::kExited;
    }
    char text[200];
    std::snprintf(text, sizeof(text), "; of %u threads %u are at __syncthreads, %u in a warp collective, %u have exited",
                  c->threads, barrier, collective, exited);
    if (outside == 0) return text;
    return text + (", " + std::to_string(outside)) + " wait for a word, an mbarrier or the cluster's barrier";
}

// The thread and CTA of the access that `stamp` records.
static std::string actor_text(const Cta* c, uint64_t stamp, const void* address) {
    const Launch& l = *c->launch;
    const uint32_t rank = stamp_serial(stamp) - c->launch_base;
    if (rank < l.ctas) return thread_text(l, rank, stamp_thread(stamp));
    // A store that came from elsewhere: whoever was the last to store there.
    const uintptr_t a = reinterpret_cast<uintptr_t>(address);
    const bool is_static = a - c->static_begin < c->static_bytes;
    const size_t offset = is_static ? a - c->static_begin + c->static_shadow : a - arena.base;
    const auto found = c->senders.find(offset / kUnitBytes);
    if (found == c->senders.end()) return "another CTA's st.async";
    return "the st.async of " + thread_text(l, stamp_serial(found->second) - c->launch_base, stamp_thread(found->second));
}

void record_fault(Cta* c) {
    Launch& l = *c->launch;
    const FaultPlace& f = c->fault;
    std::string text = "kernel " + kernel_name(l.function) + ", " + 
                       (f.actor ? actor_text(c, f.actor, f.address) : thread_text(l, c->rank, c->thread)) + ": " + f.what;
    if (f.bytes) {
        char access[96];
        std::snprintf(access, sizeof(access), ": %s of %u bytes at 0x%zx, ", f.actor ? "st.async" : f.write ? "store" : "load", f.bytes,
                      reinterpret_cast<size_t>(f.address));
        text += access + address_text(c, f.address) + (f.actor ? " of CTA " + std::to_string(c->rank) : "") +
                code_place(f.pc);
    } else {
        text += waiting_text(c);
    }
    if (f.other) {
        text += std::string(", not ordered after a ") + (f.other_was_write ? "store" : "load") + " by " +
                actor_text(c, f.other, f.address);
    }
    text += c->detail;
    text += std::string(" [") + code_name(f.code) + "]";
    const std::lock_guard<std::mutex> lock(l.mutex);
    if (l.code == 0) {
        l.code = f.code;
        l.report = text;
    }
    l.aborted = true;
    moved(l);
}

}  // namespace emulator
