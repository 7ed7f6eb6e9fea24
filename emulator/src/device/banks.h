// Wavefronts of shared memory: passes that its 32 banks of 4 bytes take for the accesses of a warp.
//
// The lanes of a warp run one after the other here, so the accesses of one instruction are gathered. They are those with
// the same code address and the same number among the lane's accesses from there since the warp last converged (all of
// its live lanes in one collective or at a block barrier). A loop that lanes leave at different turns is gathered right;
// one in which some lanes skip a turn that others take is gathered as if these lanes were ahead.
//
// A GPU takes the lanes of an access in phases: all 32 of them for up to 4 bytes, 16 for 8, 8 for 16. A phase needs as many
// wavefronts as one bank has different words in it, and one at least; one is ideal. A word that several lanes access
// counts once. An access whose type is aligned to less than its size is taken word by word, as nvcc does where it knows no
// more of the address. Accesses of mbarriers and stores from other CTAs are not counted.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <map>

namespace emulator {

struct Cta;

struct Wavefronts {
    uint64_t needed = 0, ideal = 0;
};
// By code address.
using WavefrontCounts = std::map<const void*, Wavefronts>;
void add(WavefrontCounts* to, const WavefrontCounts& from);

struct SharedAccess {
    const void* pc;
    uint32_t offset;
    uint16_t piece;  // of an access that is taken word by word
    uint8_t lane, bytes;
};

// `offset` is from the start of the kind of shared memory that it lies in.
void note_shared_access(Cta* c, size_t offset, unsigned bytes, bool is_whole, const void* pc);
// All live lanes of a warp have met: what they accessed before is complete.
void count_wavefronts(Cta* c, unsigned warp);
void count_wavefronts(Cta* c);  // of every warp

}  // namespace emulator
