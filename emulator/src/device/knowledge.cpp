#include "knowledge.h"
#include <algorithm>

namespace emulator {

void Known::add(const Lanes& more) {
    if (more.event <= all) return;
    for (Lanes& l : lanes) {
        if (l.warp == more.warp && l.mask == more.mask) {
            l.event = std::max(l.event, more.event);
            return;
        }
    }
    lanes.push_back(more);
}

void Known::add(const Known& other) {
    all = std::max(all, other.all);
    for (const Lanes& l : other.lanes) add(l);
    lanes.erase(std::remove_if(lanes.begin(), lanes.end(), [this](const Lanes& l) { return l.event <= all; }),
                lanes.end());
}

void Knowledge::add(const Knowledge& other) {
    for (const auto& [rank, known] : other.ctas) ctas[rank].add(known);
}

bool Knowledge::covers(uint32_t rank, unsigned thread, uint32_t event) const {
    const auto found = ctas.find(rank);
    if (found == ctas.end()) return false;
    if (event < found->second.all) return true;
    for (const Known::Lanes& l : found->second.lanes) {
        if (l.warp == thread / 32 && (l.mask >> (thread % 32) & 1u) && event < l.event) return true;
    }
    return false;
}

}  // namespace emulator
