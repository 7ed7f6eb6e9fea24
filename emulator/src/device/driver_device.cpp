// Devices and contexts. A context is its device: there are primary ones only.
#include <atomic>
#include <cstring>
#include <cstdio>
#include "arena.h"
#include "driver.h"
#include "memory.h"
#include "profile.h"

using namespace emulator;

static std::atomic<bool> initialized{false};
static std::atomic<int> primary_users[kProfileCount];

static CUcontext context_of(int device) { return &primary_users[device]; }

static int device_of(CUcontext context) {
    for (int i = 0; i < kProfileCount; i++) {
        if (context == context_of(i)) return i;
    }
    return -1;
}

bool emulator::valid_device(int device) { return device >= 0 && device < kProfileCount; }

#define NEED_INIT() \
    if (!initialized) return kNotInitialized
#define NEED_DEVICE(device) \
    if (!valid_device(device)) return kInvalidDevice

DRIVER cuInit(unsigned flags) {
    EMULATOR_QUERY();
    if (flags != 0) return kInvalidValue;
    if (!reserve_arena()) return kOutOfMemory;
    initialized = true;
    return kSuccess;
}

DRIVER cuDriverGetVersion(int* version) {
    EMULATOR_QUERY();
    *version = 13000;
    return kSuccess;
}

DRIVER cuDeviceGetCount(int* count) {
    EMULATOR_QUERY();
    NEED_INIT();
    *count = kProfileCount;
    return kSuccess;
}

DRIVER cuDeviceGet(CUdevice* device, int ordinal) {
    EMULATOR_QUERY();
    NEED_INIT();
    NEED_DEVICE(ordinal);
    *device = ordinal;
    return kSuccess;
}

DRIVER cuDeviceGetName(char* name, int capacity, CUdevice device) {
    EMULATOR_QUERY();
    NEED_INIT();
    NEED_DEVICE(device);
    if (capacity <= 0) return kInvalidValue;
    std::snprintf(name, static_cast<size_t>(capacity), "emulated (%s)", profile(device).name);
    return kSuccess;
}

static CUresult uuid(char* bytes, CUdevice device) {
    EMULATOR_QUERY();
    NEED_INIT();
    NEED_DEVICE(device);
    std::memcpy(bytes, "emulated device", 15);
    bytes[15] = static_cast<char>(device);
    return kSuccess;
}

DRIVER cuDeviceGetUuid(char* bytes, CUdevice device) { return uuid(bytes, device); }
DRIVER cuDeviceGetUuid_v2(char* bytes, CUdevice device) { return uuid(bytes, device); }

DRIVER cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    EMULATOR_QUERY();
    NEED_INIT();
    NEED_DEVICE(device);
    *bytes = profile(device).memory_bytes;
    return kSuccess;
}

DRIVER cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
    EMULATOR_QUERY();
    NEED_INIT();
    NEED_DEVICE(device);
    return device_attribute(profile(device), attribute, device, value) ? kSuccess : kInvalidValue;
}

DRIVER cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    EMULATOR_CALL();
    NEED_INIT();
    NEED_DEVICE(device);
    primary_users[device]++;
    *context = context_of(device);
    return kSuccess;
}

DRIVER cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    EMULATOR_QUERY();
    NEED_INIT();
    NEED_DEVICE(device);
    if (primary_users[device] <= 0) return kInvalidContext;
    primary_users[device]--;
    return kSuccess;
}

DRIVER cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    EMULATOR_QUERY();
    NEED_INIT();
    NEED_DEVICE(device);
    *flags = 0;
    *active = primary_users[device] > 0;
    return kSuccess;
}

DRIVER cuCtxGetCurrent(CUcontext* context) {
    EMULATOR_QUERY();
    NEED_INIT();
    *context = control().device < 0 ? nullptr : context_of(control().device);
    return kSuccess;
}

DRIVER cuCtxSetCurrent(CUcontext context) {
    EMULATOR_QUERY();
    NEED_INIT();
    const int device = device_of(context);
    if (context && device < 0) return kInvalidContext;
    control().device = device;
    return kSuccess;
}

DRIVER cuCtxGetDevice(CUdevice* device) {
    EMULATOR_QUERY();
    if (control().device < 0) return kInvalidContext;
    *device = control().device;
    return kSuccess;
}

DRIVER cuCtxSynchronize(void) {
    EMULATOR_CONTEXT_CALL();
    return kSuccess;
}

DRIVER cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    EMULATOR_CONTEXT_CALL();
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return kSuccess;
}

DRIVER cuCtxSetFlags(unsigned) {
    EMULATOR_CONTEXT_CALL();
    return kSuccess;
}

DRIVER cuCtxGetApiVersion(CUcontext, unsigned* version) {
    EMULATOR_QUERY();
    *version = 13000;
    return kSuccess;
}

// Code of the driver's own formats cannot run here.
DRIVER cuModuleLoadData(void**, const void*) {
    EMULATOR_CONTEXT_CALL();
    return kNotSupported;
}

DRIVER cuModuleLoad(void**, const char*) {
    EMULATOR_CONTEXT_CALL();
    return kNotSupported;
}

DRIVER cuGetErrorName(CUresult error, const char** text) {
    *text = code_name(error);
    return *text ? kSuccess : kInvalidValue;
}

DRIVER cuGetErrorString(CUresult error, const char** text) {
    *text = code_description(error);
    return *text ? kSuccess : kInvalidValue;
}
