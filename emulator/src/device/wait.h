// Waiting for other CTAs. Each CTA is an OS thread; one that cannot go on by itself sleeps until something happens in the
// launch, so that a CTA that works has the processor, and so that "everybody waits" is a fact and not a time-out.
#pragma once
#include "cta.h"

namespace emulator {

// Something happened that others may wait for. The launch is locked.
void moved(Launch& l);
// Wakes a CTA that sleeps, to look at what came for it. The launch is locked.
void rouse(Launch& l, Cta* c);

// Ends the running thread's turn until the launch has moved on since `running(c).seen`.
void wait_outside(Cta* c);
// Called before each look at what others may change: gives way where this thread does nothing else. `again`: it looked at
// the same and saw the same the last time.
void look(Cta* c, bool again);
// A thread gives way without waiting: those that wait outside have their turn as well.
void look_around(Cta* c);
// No thread of the CTA is ready, and some wait outside: makes them ready when there is something to see.
void park(Cta* c);

}  // namespace emulator
