// Barriers in shared memory that count arrivals and bytes, and the stores that bring those bytes.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <memory>
#include "knowledge.h"

namespace emulator {

struct Cta;

// A place in a CTA's shared memory, the same in every CTA of a launch.
struct SharedPlace {
    bool is_static = false;
    size_t offset = 0;
    bool operator==(const SharedPlace& other) const { return is_static == other.is_static && offset == other.offset; }
};

struct Mbarrier {
    SharedPlace place;
    unsigned number = 0;  // counts those of the CTA
    unsigned count = 0, pending = 0;
    int64_t expected = 0;  // bytes that the phase waits for; negative where they came before they were announced
    uint32_t phase = 0;    // phases completed
    // The thread that made it and when; when the fence behind that was passed (0: it was not).
    unsigned thread = 0;
    uint32_t made = 0, fenced = 0;
    uint32_t observed = 0;  // phases that some thread has waited for
    uint32_t filled = 0;    // the last phase that a store arrived in, counted from 1; 0: none has
    Knowledge gathering;
    std::shared_ptr<const Knowledge> completed;  // of the last phase
};

// A st.async: 16 bytes for another CTA's shared memory, and for a barrier there.
struct AsyncStore {
    SharedPlace slot, barrier;
    unsigned words[4];
    uint64_t sender = 0;  // stamp
    Knowledge knowledge;  // of the thread that issued it
};

// Lets stores on their way arrive: some of them by the seed, or one for certain. True if one did.
void land_some(Cta* c);
bool land_one(Cta* c);
// The end of a CTA's barriers when all of its threads have returned. Null, or what is wrong.
const char* check_exit(Cta* c);
// " (mbarrier at ...: ...)" for each of the CTA's barriers, for reports of deadlocks. The launch is locked.
void describe_mbarriers(const Cta* c, char* text, size_t bytes);

}  // namespace emulator
