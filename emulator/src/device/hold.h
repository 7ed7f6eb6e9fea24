// Multiprocessors that another kernel holds, as a test says: launches of the thread that said so wait for them.
#pragma once
#include "launch.h"

namespace emulator {

// Returns when what the launch was promised fits the multiprocessors that are not held, or with the code of a launch that
// waited too long.
int wait_for_room(const CudaEmulatorLaunch& request, int device, const Kernel* kernel);

}  // namespace emulator
