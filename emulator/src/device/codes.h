// CUresult values (a cudaError_t has the same numbers).
#pragma once

namespace emulator {

enum Code : int {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kNotInitialized = 3,
    kInvalidConfiguration = 9,
    kInvalidDeviceFunction = 98,
    kNoDevice = 100,
    kInvalidDevice = 101,
    kInvalidContext = 201,
    kNoBinaryForGpu = 209,
    kInvalidHandle = 400,
    kIllegalState = 401,
    kNotFound = 500,
    kNotReady = 600,
    kIllegalAddress = 700,
    kLaunchOutOfResources = 701,
    kLaunchTimeout = 702,
    kIllegalInstruction = 715,
    kMisalignedAddress = 716,
    kLaunchFailed = 719,
    kCooperativeLaunchTooLarge = 720,
    kNotSupported = 801,
    kStreamCaptureUnsupported = 900,
    kInvalidClusterSize = 912,
    kUnknown = 999,
};

const char* code_name(int code);
const char* code_description(int code);

}  // namespace emulator
