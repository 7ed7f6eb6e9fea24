// The first pass of a two-pass training forward, which is compiled with bn_moments.
#pragma once
#include "../abi.h"

BnStatus launch_moments(const BnMoments& args, BnStream stream);
