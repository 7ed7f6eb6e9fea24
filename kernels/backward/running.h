// The half of bn_backward with running statistics. The halves are compiled separately, since each takes the compiler long.
#pragma once
#include "../abi.h"

BnStatus launch_backward_running(const BnBackward& args, void* stream);
BnStatus prepare_backward_running(const BnDevice& device, BnResident* resident);
