// The two halves of bn_backward, which are compiled apart: each takes the one compiler most of its time.
#pragma once
#include "../abi.h"

// Through running statistics.
BnStatus launch_backward_running(const BnBackward& args, void* stream);
BnStatus prepare_backward_running(const BnDevice& device, BnResident* resident);
