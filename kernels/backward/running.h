// The half of bn_backward with running statistics, compiled separately: each half takes the compiler long.
#pragma once
#include "../abi.h"

BnStatus launch_backward_running(const BnBackward& args, BnStream stream);
BnStatus prepare_backward_running(const BnDevice& device, BnResident* resident);
