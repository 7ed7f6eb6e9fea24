// The CUDA runtime, as far as kernels and the functions that launch them need it, for g++.
#pragma once
#ifndef __CUDA_EMULATOR__
#error "these headers are the emulated device's: compile with the flags that cuda-emulator gives"
#endif
#include "cuda_emulator.h"
#include "cuda_emulator/intrinsics.h"
#include "cuda_emulator/memory.h"
#include "cuda_emulator/position.h"
#include "cuda_emulator/runtime_api.h"
#include "cuda_emulator/vector_types.h"
#include "cuda_emulator/warp.h"
#include "cuda_emulator/launch.h"
