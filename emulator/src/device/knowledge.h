// What a CTA knows of others: which of their accesses happened before.
#pragma once
#include <stdint.h>
#include <unordered_map>
#include <vector>

namespace emulator {

// Of one CTA: all of its accesses before event `all`, and those of some lanes before a later event.
struct Known {
    struct Lanes {
        unsigned warp, mask;
        uint32_t event;
    };
    uint32_t all = 0;
    std::vector<Lanes> lanes;

    void add(const Lanes& more);
    void add(const Known& other);
};

struct Knowledge {
    std::unordered_map<uint32_t, Known> ctas;  // by rank

    void add(const Knowledge& other);
    bool covers(uint32_t rank, unsigned thread, uint32_t event) const;
};

}  // namespace emulator
