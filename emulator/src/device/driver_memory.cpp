// Memory: allocation, copies, fills. A copy to the host is checked for memory that was never written.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <new>
#include "arena.h"
#include "driver.h"
#include "memory.h"
#include "profile.h"

using namespace emulator;

static uint8_t* state_of(CUdeviceptr address) { return arena.state + (address - arena.base); }
static void* bytes_of(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

static int bad_range(const char* call, CUdeviceptr address, size_t bytes) {
    char where[200], text[400];
    describe_address(address, where, sizeof(where));
    std::snprintf(text, sizeof(text), "%s of %zu bytes at 0x%llx (%s) leaves its allocation [%s]", call, bytes,
                  static_cast<unsigned long long>(address), where, code_name(kInvalidValue));
    report(text);
    return kInvalidValue;
}

DRIVER cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
    EMULATOR_CONTEXT_CALL();
    return allocate(control().device, bytes, address);
}

DRIVER cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream stream) {
    EMULATOR_CONTEXT_CALL();
    if (!valid_stream(stream)) return kInvalidHandle;
    if (!has_memory_pools(profile(control().device))) return kNotSupported;
    return allocate(control().device, bytes, address);
}

// A device's default pool: what it keeps, and no memory, since all is given back at once.
struct Pool {
    std::atomic<uint64_t> release_threshold;
};
static Pool pools[kProfileCount];
constexpr int kReleaseThreshold = 4;  // CU_MEMPOOL_ATTR_RELEASE_THRESHOLD

DRIVER cuDeviceGetDefaultMemPool(Pool** pool, CUdevice device) {
    EMULATOR_CALL();
    if (!valid_device(device)) return kInvalidDevice;
    if (!has_memory_pools(profile(device))) return kNotSupported;
    *pool = &pools[device];
    return kSuccess;
}

static bool is_pool(const Pool* pool) { return pool >= pools && pool < pools + kProfileCount; }

DRIVER cuMemPoolSetAttribute(Pool* pool, int attribute, const void* value) {
    EMULATOR_CALL();
    if (!is_pool(pool) || attribute != kReleaseThreshold) return kInvalidValue;
    pool->release_threshold = *static_cast<const uint64_t*>(value);
    return kSuccess;
}

DRIVER cuMemPoolGetAttribute(Pool* pool, int attribute, void* value) {
    EMULATOR_CALL();
    if (!is_pool(pool) || attribute != kReleaseThreshold) return kInvalidValue;
    *static_cast<uint64_t*>(value) = pool->release_threshold;
    return kSuccess;
}

// Memory is given back after a failed launch too, so that its error alone is left behind.
DRIVER cuMemFree_v2(CUdeviceptr address) {
    EMULATOR_QUERY();
    if (address == 0) return kSuccess;
    const int code = release(address);
    return code ? code : control().sticky;
}

DRIVER cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
    EMULATOR_QUERY();
    if (!valid_stream(stream)) return kInvalidHandle;
    const int code = release(address);
    return code ? code : control().sticky;
}

DRIVER cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
    EMULATOR_CONTEXT_CALL();
    memory_info(control().device, free_bytes, total_bytes);
    return kSuccess;
}

static int copy_in(CUdeviceptr to, const void* from, size_t bytes) {
    if (bytes == 0) return kSuccess;
    if (!find_allocation(to, bytes)) return bad_range("copy to the device", to, bytes);
    std::memcpy(bytes_of(to), from, bytes);
    std::memset(state_of(to), kWritten, bytes);
    return kSuccess;
}

static int copy_out(void* to, CUdeviceptr from, size_t bytes) {
    if (bytes == 0) return kSuccess;
    if (!find_allocation(from, bytes)) return bad_range("copy to the host", from, bytes);
    std::memcpy(to, bytes_of(from), bytes);
    const void* unwritten = std::memchr(state_of(from), kPoison, bytes);
    if (unwritten && control().strict_copies) {
        size_t missing = 0;
        for (size_t i = 0; i < bytes; i++) missing += state_of(from)[i] == kPoison;
        char where[200], text[400];
        const CUdeviceptr first = from + static_cast<size_t>(static_cast<const uint8_t*>(unwritten) - state_of(from));
        describe_address(first, where, sizeof(where));
        std::snprintf(text, sizeof(text),
                      "copy to the host of %zu bytes: %zu of them were never written, the first is %s [%s]", bytes,
                      missing, where, code_name(kIllegalState));
        report(text);
        return kIllegalState;
    }
    return kSuccess;
}

static int copy_inside(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    if (bytes == 0) return kSuccess;
    if (!find_allocation(to, bytes)) return bad_range("copy on the device", to, bytes);
    if (!find_allocation(from, bytes)) return bad_range("copy on the device", from, bytes);
    std::memmove(bytes_of(to), bytes_of(from), bytes);
    std::memmove(state_of(to), state_of(from), bytes);
    return kSuccess;
}

static int fill(CUdeviceptr to, unsigned char value, size_t bytes) {
    if (bytes == 0) return kSuccess;
    if (!find_allocation(to, bytes)) return bad_range("fill", to, bytes);
    std::memset(bytes_of(to), value, bytes);
    std::memset(state_of(to), kWritten, bytes);
    return kSuccess;
}

DRIVER cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    EMULATOR_CONTEXT_CALL();
    return copy_in(to, from, bytes);
}

DRIVER cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    EMULATOR_CONTEXT_CALL();
    if (!valid_stream(stream)) return kInvalidHandle;
    return copy_in(to, from, bytes);
}

DRIVER cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    EMULATOR_CONTEXT_CALL();
    return copy_out(to, from, bytes);
}

DRIVER cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    EMULATOR_CONTEXT_CALL();
    if (!valid_stream(stream)) return kInvalidHandle;
    return copy_out(to, from, bytes);
}

DRIVER cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    EMULATOR_CONTEXT_CALL();
    return copy_inside(to, from, bytes);
}

DRIVER cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    EMULATOR_CONTEXT_CALL();
    if (!valid_stream(stream)) return kInvalidHandle;
    return copy_inside(to, from, bytes);
}

DRIVER cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    EMULATOR_CONTEXT_CALL();
    if (!valid_stream(stream)) return kInvalidHandle;
    return copy_inside(to, from, bytes);
}

DRIVER cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t bytes) {
    EMULATOR_CONTEXT_CALL();
    return fill(to, value, bytes);
}

DRIVER cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    EMULATOR_CONTEXT_CALL();
    if (!valid_stream(stream)) return kInvalidHandle;
    return fill(to, value, bytes);
}

EMULATOR_EXPORT int emulator_cudaMemsetAsync(void* to, int value, size_t bytes, void* stream) {
    EMULATOR_CONTEXT_CALL();
    if (!valid_stream(stream)) return kInvalidHandle;
    return control().last_error =
               fill(reinterpret_cast<CUdeviceptr>(to), static_cast<unsigned char>(value), bytes);
}

static int pointer_attribute(void* data, int attribute, CUdeviceptr address) {
    const Allocation* a = find_allocation(address, 1);
    if (!a) return kInvalidValue;
    switch (attribute) {
        case 2: *static_cast<unsigned*>(data) = 2; return kSuccess;        // MEMORY_TYPE: device
        case 3: *static_cast<CUdeviceptr*>(data) = address; return kSuccess;  // DEVICE_POINTER
        case 8: *static_cast<int*>(data) = 0; return kSuccess;             // IS_MANAGED
        case 9: *static_cast<int*>(data) = a->device; return kSuccess;     // DEVICE_ORDINAL
        case 11: *static_cast<CUdeviceptr*>(data) = arena.base + a->offset; return kSuccess;  // RANGE_START_ADDR
        case 12: *static_cast<size_t*>(data) = a->bytes; return kSuccess;  // RANGE_SIZE
        default: return kInvalidValue;
    }
}

DRIVER cuPointerGetAttribute(void* data, int attribute, CUdeviceptr address) {
    EMULATOR_QUERY();
    return pointer_attribute(data, attribute, address);
}

DRIVER cuPointerGetAttributes(unsigned count, int* attributes, void** data, CUdeviceptr address) {
    EMULATOR_QUERY();
    for (unsigned i = 0; i < count; i++) {
        if (const int code = pointer_attribute(data[i], attributes[i], address)) return code;
    }
    return kSuccess;
}

DRIVER cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
    EMULATOR_CONTEXT_CALL();
    const Allocation* a = find_allocation(address, 1);
    if (!a) return kNotFound;
    if (base) *base = arena.base + a->offset;
    if (bytes) *bytes = a->bytes;
    return kSuccess;
}

DRIVER cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    EMULATOR_CONTEXT_CALL();
    *address = bytes ? ::operator new(bytes, std::nothrow) : nullptr;
    return *address ? kSuccess : kOutOfMemory;
}

DRIVER cuMemFreeHost(void* address) {
    EMULATOR_QUERY();
    ::operator delete(address);
    return control().sticky;
}
