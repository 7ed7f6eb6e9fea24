// Shared by the files that define the driver API.
#pragma once
#include <stdint.h>
#include "codes.h"
#include "control.h"
#include "interface.h"

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef void* CUcontext;
typedef void* CUstream;
typedef void* CUevent;

#define DRIVER EMULATOR_EXPORT CUresult

// Counts the call and leaves it with an injected fault or the sticky error.
#define EMULATOR_CALL()                                            \
    do {                                                           \
        if (const int code = emulator::begin_call()) return code; \
    } while (false)
// The head of queries and releases, which work after a failed launch too.
#define EMULATOR_QUERY()                                               \
    do {                                                               \
        if (const int code = emulator::begin_call(true)) return code; \
    } while (false)
// The head of calls that need a current context.
#define EMULATOR_CONTEXT_CALL()                                                       \
    do {                                                                              \
        EMULATOR_CALL();                                                              \
        if (emulator::control().device < 0) return emulator::kInvalidContext;         \
    } while (false)

DRIVER cuCtxGetCurrent(CUcontext* context);

namespace emulator {

bool valid_device(int device);
bool valid_stream(CUstream stream);

}  // namespace emulator
