#include "knowledge.h"
#include <algorithm>

namespace emulator {

void Past::add(const Lanes& more) {
    if (more.event <= all) return;
    for (Lanes& l : lanes) {
        if (l.warp == more.warp && l.mask == more.mask) {
            l.event = std::max(l.event, more.event);
            return;
        }
    }
    lanes.push_back(more);
}

void Past::add(const Past& other) {
    all = std::max(all, other.all);
    for (const Lanes& l : other.lanes) add(l);
    lanes.erase(std::remove_if(lanes.begin(), lanes.end(), [this](const Lanes& l) { return l.event <= all; }),
                lanes.end());
}

bool Past::covers(unsigned thread, uint32_t event) const {
    if (event < all) return true;
    for (const Lanes& l : lanes) {
        if (l.warp == thread / 32 && (l.mask >> (thread % 32) & 1u) && event < l.event) return true;
    }
    return false;
}

void Knowledge::add(const Knowledge& other) {
    for (const auto& [rank, known] : other.ctas) {
        Known& mine = ctas[rank];
        mine.visible.add(known.visible);
        mine.executed.add(known.executed);
    }
}

void Knowledge::add_executed(const Knowledge& other) {
    for (const auto& [rank, known] : other.ctas) {
        Known& mine = ctas[rank];
        mine.executed.add(known.visible);
        mine.executed.add(known.executed);
    }
}

bool Knowledge::visible(uint32_t rank, unsigned thread, uint32_t event) const {
    const auto found = ctas.find(rank);
    return found != ctas.end() && found->second.visible.covers(thread, event);
}

bool Knowledge::executed(uint32_t rank, unsigned thread, uint32_t event) const {
    const auto found = ctas.find(rank);
    if (found == ctas.end()) return false;
    return found->second.visible.covers(thread, event) || found->second.executed.covers(thread, event);
}

}  // namespace emulator
