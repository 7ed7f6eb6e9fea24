// Shared memory as other CTAs of the cluster reach it.
#pragma once
#include "cta.h"

namespace emulator {

// False where [a, a + bytes) is not all in the CTA's shared memory.
bool shared_place(Cta* c, uintptr_t a, unsigned bytes, SharedPlace* place);
// The index of an address's shadow in the arena.
size_t shadow_of(const Cta* c, const SharedPlace& place);
// Remembers that static shared memory there is to be cleaned.
void touch_static(Cta* c, const SharedPlace& place, unsigned bytes);

// The launch is locked, or `c` is the running CTA.
Mbarrier* find_mbarrier(Cta* c, const SharedPlace& place);
// Ends the phase if nothing is missing. The launch is locked.
void finish_phase(Launch& l, Cta* c, Mbarrier& m);

}  // namespace emulator
