// The knowledge of a CTA of others: which of their accesses happened before.
#pragma once
#include <stdint.h>
#include <unordered_map>
#include <vector>

namespace emulator {

// Accesses of one CTA: all of those before event `all`, and those of some lanes before a later event.
struct Past {
    struct Lanes {
        unsigned warp, mask;
        uint32_t event;
    };
    uint32_t all = 0;
    std::vector<Lanes> lanes;

    void add(const Lanes& more);
    void add(const Past& other);
    bool covers(unsigned thread, uint32_t event) const;
};

struct Known {
    Past visible;   // what was stored there can be read here
    Past executed;  // beyond that, what is over: it reads nothing that is stored from now on
};

struct Knowledge {
    std::unordered_map<uint32_t, Known> ctas;  // by rank; stores on their way to a CTA have a rank of their own

    void add(const Knowledge& other);
    // The knowledge that st.async hands on of its thread: its stores do not become visible by that.
    void add_executed(const Knowledge& other);
    bool visible(uint32_t rank, unsigned thread, uint32_t event) const;
    bool executed(uint32_t rank, unsigned thread, uint32_t event) const;
};

}  // namespace emulator
