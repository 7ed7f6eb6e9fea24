#include "control.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include "codes.h"
#include "interface.h"
#include "memory.h"

namespace emulator {

Control& control() {
    static thread_local Control* mine = nullptr;
    if (!mine) {
        mine = new Control();
        if (const char* seed = std::getenv("CUDA_EMULATOR_SEED")) mine->seed = std::strtoull(seed, nullptr, 0);
        if (const char* races = std::getenv("CUDA_EMULATOR_RACES")) mine->races = std::strcmp(races, "0") != 0;
        if (const char* call = std::getenv("CUDA_EMULATOR_LOSE_AT")) mine->lost_at = std::strtoull(call, nullptr, 0);
    }
    return *mine;
}

int begin_call(bool ignores_sticky) {
    Control& c = control();
    c.calls++;
    if (c.fault_at != 0 && c.calls == c.fault_at) {
        c.fault_at = 0;
        return c.fault_code;
    }
    if (c.lost_at != 0 && c.calls >= c.lost_at && !ignores_sticky) return kIllegalAddress;
    return ignores_sticky ? kSuccess : c.sticky;
}

static void (*print)(const char* text, size_t bytes);

void report(const std::string& text) {
    control().report = text;
    print(text.data(), text.size());
}

}  // namespace emulator

using emulator::control;

EMULATOR_EXPORT void emulator_set_print(void (*function)(const char* text, size_t bytes)) { emulator::print = function; }

EMULATOR_EXPORT void emulator_set_seed(uint64_t seed) {
    control().seed = seed;
    control().launches_since_seed = 0;
}

EMULATOR_EXPORT void emulator_set_races(int on) { control().races = on != 0; }
EMULATOR_EXPORT void emulator_set_strict_copies(int on) { control().strict_copies = on != 0; }

EMULATOR_EXPORT void emulator_fail_call(uint64_t k, int code) {
    control().fault_at = k == 0 ? 0 : control().calls + k;
    control().fault_code = code;
}

EMULATOR_EXPORT int emulator_fault_pending(void) { return control().fault_at != 0; }
EMULATOR_EXPORT uint64_t emulator_calls(void) { return control().calls; }
EMULATOR_EXPORT uint64_t emulator_launches(void) { return control().launches; }

EMULATOR_EXPORT void emulator_traffic(uint64_t* loaded, uint64_t* stored) {
    *loaded = control().loaded;
    *stored = control().stored;
}

EMULATOR_EXPORT void emulator_reset_traffic(void) { control().loaded = control().stored = 0; }

EMULATOR_EXPORT int emulator_traffic_of(uint64_t address, uint64_t* loaded, uint64_t* stored) {
    const emulator::Allocation* a = emulator::find_allocation(address, 1);
    if (!a) return 0;
    *loaded = a->loaded;
    *stored = a->stored;
    return 1;
}

EMULATOR_EXPORT void emulator_live(int64_t counts[4]) {
    counts[0] = control().live_allocations;
    counts[1] = control().live_bytes;
    counts[2] = control().live_streams;
    counts[3] = control().live_events;
}

EMULATOR_EXPORT size_t emulator_last_report(char* text, size_t capacity) {
    const std::string& from = control().report;
    if (capacity > 0) {
        const size_t bytes = from.size() < capacity ? from.size() : capacity;
        std::memcpy(text, from.data(), bytes);
    }
    return from.size();
}

EMULATOR_EXPORT void emulator_clear_error(void) {
    control().sticky = 0;
    control().last_error = 0;
    control().report.clear();
}
