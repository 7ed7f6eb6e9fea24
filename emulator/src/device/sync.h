// The messages of threads: knowledge of what has happened before.
#pragma once
#include "cta.h"

namespace emulator {

// Checks the place of an access that synchronises: `bytes` of global memory, aligned to them.
void check_atomic(Cta* c, const void* address, unsigned bytes, bool write, const void* pc);
// The knowledge that the running thread may hand on: what it did, and what is known to have happened before that.
Knowledge published(Cta* c);
// The running thread, or all `lanes` of its warp, learn something.
void learn(Cta* c, unsigned lanes, const std::shared_ptr<const Knowledge>& knowledge);
// The knowledge of each of the CTA's threads becomes that of all.
void learn_all(Cta* c);

}  // namespace emulator
