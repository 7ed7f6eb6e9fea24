// What a CTA needs to run: stacks and windows, kept between launches, and OS threads for grids that run concurrently.
#pragma once
#include <functional>
#include "cta.h"

namespace emulator {

// A worker's resources, for the calling OS thread until they are returned. Null where too many are in use.
Cta* borrow_cta(int device);
void return_cta(Cta* c);

// Runs `body(i)` for all i < n, each on an OS thread of its own at the same time.
void run_concurrently(uint32_t n, const std::function<void(uint32_t)>& body);

}  // namespace emulator
