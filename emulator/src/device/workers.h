// The means by which a CTA runs: stacks and windows, kept between launches, and OS threads for grids that run concurrently.
#pragma once
#include <functional>
#include "cta.h"

namespace emulator {

// Room for a launch's CTAs at the same time, from construction to destruction. Construction waits until all of it is there:
// launches of several host threads, each with a part of what it needs, would wait for one another.
class Reservation {
  public:
    explicit Reservation(uint32_t ctas);
    ~Reservation();
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;

    // False where a launch has more CTAs than there are workers.
    bool is_made() const { return made_; }

  private:
    const uint32_t ctas_;
    const bool made_;
};

// A worker's resources, for the calling OS thread until they are returned. Null where too many are in use.
Cta* borrow_cta(int device);
void return_cta(Cta* c);

// Runs `body(i)` for all i < n, each on an OS thread of its own at the same time.
void run_concurrently(uint32_t n, const std::function<void(uint32_t)>& body);

}  // namespace emulator
