// The state of one host thread: its seed, its faults, its counts, its errors. Tests run in several threads of one
// process, and none shall see another's.
#pragma once
#include <atomic>
#include <stdint.h>
#include <string>
#include "banks.h"

namespace emulator {

struct Control {
    uint64_t seed = 0;
    uint64_t launches_since_seed = 0;
    bool races = true;
    bool strict_copies = true;
    bool counts_wavefronts = false;

    uint64_t calls = 0, launches = 0;
    uint64_t fault_at = 0;  // the value of `calls` at which the fault strikes; 0: none
    int fault_code = 0;
    uint64_t lost_at = 0;  // the value of `calls` from which on the device is lost; 0: never

    uint64_t loaded = 0, stored = 0;
    WavefrontCounts wavefronts;
    // Freed by other threads as well.
    std::atomic<int64_t> live_allocations{0}, live_bytes{0}, live_streams{0}, live_events{0};

    // Guarded by hold.cpp: multiprocessors that others hold, and whether a launch waits for them.
    int held = 0;
    bool waits = false;

    int device = -1;  // whose context is current; -1: none
    int sticky = 0;   // the error of a failed launch, until it is cleared
    int last_error = 0;
    std::string report;
};

// The calling thread's. Never freed: an allocation may outlive the thread that made it.
Control& control();

// Counts a driver or runtime call and returns the code it must fail with: an injected fault, or the sticky error.
// Queries, which know no sticky error, ignore it.
int begin_call(bool ignores_sticky = false);

// Keeps a report and prints it.
void report(const std::string& text);

}  // namespace emulator
