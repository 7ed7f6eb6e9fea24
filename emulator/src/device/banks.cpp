#include "banks.h"
#include <algorithm>
#include <cstring>
#include <tuple>
#include "control.h"
#include "cta.h"
#include "interface.h"
#include "launch.h"

namespace emulator {

constexpr unsigned kBanks = 32;
constexpr unsigned kWordBytes = 4;

void add(WavefrontCounts* to, const WavefrontCounts& from) {
    for (const auto& [pc, counts] : from) {
        Wavefronts& sum = (*to)[pc];
        sum.needed += counts.needed;
        sum.ideal += counts.ideal;
    }
}

void note_shared_access(Cta* c, size_t offset, unsigned bytes, bool is_whole, const void* pc) {
    const unsigned unit = is_whole ? bytes : offset % kWordBytes == 0 && bytes % kWordBytes == 0 ? kWordBytes : 1;
    const auto lane = static_cast<uint8_t>(c->thread % kWarpSize);
    std::vector<SharedAccess>& accesses = c->shared_accesses[c->thread / kWarpSize];
    for (unsigned at = 0; at < bytes; at += unit) {
        accesses.push_back({pc, static_cast<uint32_t>(offset + at), static_cast<uint16_t>(at / unit), lane,
                            static_cast<uint8_t>(unit)});
    }
}

// The accesses of one instruction, a lane at most once, ordered by lane.
static Wavefronts wavefronts_of(const SharedAccess* const* accesses, size_t count) {
    const unsigned words = std::max(accesses[0]->bytes / kWordBytes, 1u), phase_lanes = kBanks / words;
    Wavefronts result;
    for (size_t i = 0; i < count;) {
        const unsigned phase = accesses[i]->lane / phase_lanes;
        uint32_t accessed[kBanks];
        unsigned n = 0;
        for (; i < count && accesses[i]->lane / phase_lanes == phase; i++) {
            for (unsigned word = 0; word < words; word++) accessed[n++] = accesses[i]->offset / kWordBytes + word;
        }
        std::sort(accessed, accessed + n);
        n = static_cast<unsigned>(std::unique(accessed, accessed + n) - accessed);
        unsigned of_bank[kBanks] = {}, most = 0;
        for (unsigned word = 0; word < n; word++) most = std::max(most, ++of_bank[accessed[word] % kBanks]);
        result.needed += most;
        result.ideal++;
    }
    return result;
}

void count_wavefronts(Cta* c, unsigned warp) {
    std::vector<SharedAccess>& accesses = c->shared_accesses[warp];
    if (accesses.empty()) return;
    // Stable: a lane's accesses from one address stay in their order.
    const auto by_place = [](const SharedAccess& a) { return std::make_tuple(a.pc, a.piece, a.bytes, a.lane); };
    std::stable_sort(accesses.begin(), accesses.end(), [&](const SharedAccess& a, const SharedAccess& b) {
        return by_place(a) < by_place(b);
    });
    const size_t count = accesses.size();
    for (size_t begin = 0, end; begin < count; begin = end) {
        // The next access of each lane from this address, and the end of them.
        size_t next[kWarpSize], last[kWarpSize];
        std::memset(next, 0, sizeof(next));
        std::memset(last, 0, sizeof(last));
        const auto same_place = [&](const SharedAccess& a) {
            return a.pc == accesses[begin].pc && a.piece == accesses[begin].piece && a.bytes == accesses[begin].bytes;
        };
        for (end = begin; end < count && same_place(accesses[end]); end++) {
            const unsigned lane = accesses[end].lane;
            if (last[lane] == 0) next[lane] = end;
            last[lane] = end + 1;
        }
        Wavefronts& sum = c->wavefronts[accesses[begin].pc];
        while (true) {
            const SharedAccess* together[kWarpSize];
            size_t n = 0;
            for (unsigned lane = 0; lane < kWarpSize; lane++) {
                if (next[lane] < last[lane]) together[n++] = &accesses[next[lane]++];
            }
            if (n == 0) break;
            const Wavefronts one = wavefronts_of(together, n);
            sum.needed += one.needed;
            sum.ideal += one.ideal;
        }
    }
    accesses.clear();
}

void count_wavefronts(Cta* c) {
    for (unsigned warp = 0; warp * kWarpSize < c->threads; warp++) count_wavefronts(c, warp);
}

}  // namespace emulator

using emulator::control;

EMULATOR_EXPORT void emulator_count_wavefronts(int on) {
    control().counts_wavefronts = on != 0;
    if (on) control().wavefronts.clear();
}

EMULATOR_EXPORT void emulator_wavefronts(uint64_t* needed, uint64_t* ideal) {
    *needed = *ideal = 0;
    for (const auto& of_place : control().wavefronts) {
        *needed += of_place.second.needed;
        *ideal += of_place.second.ideal;
    }
}

// The place with most wavefronts beyond the ideal.
EMULATOR_EXPORT size_t emulator_worst_wavefronts(uint64_t* needed, uint64_t* ideal, char* place, size_t capacity) {
    *needed = *ideal = 0;
    const void* worst = nullptr;
    for (const auto& [pc, counts] : control().wavefronts) {
        if (counts.needed - counts.ideal <= *needed - *ideal && worst) continue;
        worst = pc;
        *needed = counts.needed;
        *ideal = counts.ideal;
    }
    const std::string text = worst ? emulator::code_place(worst) : "";
    std::memcpy(place, text.data(), std::min(capacity, text.size()));
    return text.size();
}
