// What threads tell one another: knowledge of what has happened before.
#pragma once
#include "cta.h"

namespace emulator {

// What the running thread may tell others: what it did, and what is known to have happened before that.
Knowledge published(Cta* c);
// The running thread, or all `lanes` of its warp, learn something.
void learn(Cta* c, unsigned lanes, const std::shared_ptr<const Knowledge>& knowledge);
// What the CTA's threads learnt is now known to all of them.
void learn_all(Cta* c);

}  // namespace emulator
