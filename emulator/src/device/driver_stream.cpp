// Streams and events. Work is done when it is submitted, so a stream is only an identity, and an event is always reached.
#include <mutex>
#include <unordered_map>
#include "driver.h"

using namespace emulator;

static std::mutex mutex;
// The owner of each stream and event.
static std::unordered_map<void*, Control*> streams, events;
static uintptr_t handles = 0x1000;

bool emulator::valid_stream(CUstream stream) {
    if (reinterpret_cast<uintptr_t>(stream) <= 2) return true;  // null, legacy, per thread
    const std::lock_guard<std::mutex> lock(mutex);
    return streams.count(stream) != 0;
}

static bool valid_event(CUevent event) {
    const std::lock_guard<std::mutex> lock(mutex);
    return events.count(event) != 0;
}

static void* make(std::unordered_map<void*, Control*>& table, std::atomic<int64_t> Control::*live) {
    const std::lock_guard<std::mutex> lock(mutex);
    void* handle = reinterpret_cast<void*>(handles += 16);
    table[handle] = &control();
    (control().*live)++;
    return handle;
}

static bool unmake(std::unordered_map<void*, Control*>& table, std::atomic<int64_t> Control::*live, void* handle) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = table.find(handle);
    if (found == table.end()) return false;
    (found->second->*live)--;
    table.erase(found);
    return true;
}

DRIVER cuStreamCreate(CUstream* stream, unsigned) {
    EMULATOR_CONTEXT_CALL();
    *stream = make(streams, &Control::live_streams);
    return kSuccess;
}

DRIVER cuStreamCreateWithPriority(CUstream* stream, unsigned, int) {
    EMULATOR_CONTEXT_CALL();
    *stream = make(streams, &Control::live_streams);
    return kSuccess;
}

DRIVER cuStreamDestroy_v2(CUstream stream) {
    EMULATOR_QUERY();
    return unmake(streams, &Control::live_streams, stream) ? control().sticky : kInvalidHandle;
}

static int stream_call(CUstream stream) {
    EMULATOR_CONTEXT_CALL();
    return valid_stream(stream) ? kSuccess : kInvalidHandle;
}

DRIVER cuStreamSynchronize(CUstream stream) { return stream_call(stream); }
DRIVER cuStreamQuery(CUstream stream) { return stream_call(stream); }

DRIVER cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    if (const int code = stream_call(stream)) return code;
    return valid_event(event) ? kSuccess : kInvalidHandle;
}

DRIVER cuStreamGetPriority(CUstream stream, int* priority) {
    *priority = 0;
    return stream_call(stream);
}

DRIVER cuStreamGetFlags(CUstream stream, unsigned* flags) {
    *flags = 1;
    return stream_call(stream);
}

DRIVER cuStreamGetCtx(CUstream stream, CUcontext* context) {
    if (const int code = stream_call(stream)) return code;
    return cuCtxGetCurrent(context);
}

// Capture needs a graph that can be run later; this device has none.
DRIVER cuStreamBeginCapture_v2(CUstream stream, unsigned) {
    if (const int code = stream_call(stream)) return code;
    return kStreamCaptureUnsupported;
}

DRIVER cuStreamEndCapture(CUstream stream, void** graph) {
    if (const int code = stream_call(stream)) return code;
    *graph = nullptr;
    return kIllegalState;
}

DRIVER cuStreamIsCapturing(CUstream stream, unsigned* status) {
    *status = 0;
    return stream_call(stream);
}

DRIVER cuStreamGetCaptureInfo_v2(CUstream stream, unsigned* status, uint64_t*, void**, const void**, size_t*) {
    *status = 0;
    return stream_call(stream);
}

DRIVER cuStreamGetCaptureInfo_v3(CUstream stream, unsigned* status, uint64_t*, void**, const void**, const void**,
                                 size_t*) {
    *status = 0;
    return stream_call(stream);
}

DRIVER cuLaunchHostFunc(CUstream stream, void (*function)(void*), void* data) {
    if (const int code = stream_call(stream)) return code;
    function(data);
    return kSuccess;
}

DRIVER cuEventCreate(CUevent* event, unsigned) {
    EMULATOR_CONTEXT_CALL();
    *event = make(events, &Control::live_events);
    return kSuccess;
}

DRIVER cuEventDestroy_v2(CUevent event) {
    EMULATOR_QUERY();
    return unmake(events, &Control::live_events, event) ? control().sticky : kInvalidHandle;
}

DRIVER cuEventRecord(CUevent event, CUstream stream) {
    if (const int code = stream_call(stream)) return code;
    return valid_event(event) ? kSuccess : kInvalidHandle;
}

static int event_call(CUevent event) {
    EMULATOR_CONTEXT_CALL();
    return valid_event(event) ? kSuccess : kInvalidHandle;
}

DRIVER cuEventQuery(CUevent event) { return event_call(event); }
DRIVER cuEventSynchronize(CUevent event) { return event_call(event); }

// No time that passes here says anything about a GPU.
DRIVER cuEventElapsedTime(float*, CUevent, CUevent) {
    EMULATOR_CONTEXT_CALL();
    return kNotSupported;
}

DRIVER cuEventElapsedTime_v2(float*, CUevent, CUevent) {
    EMULATOR_CONTEXT_CALL();
    return kNotSupported;
}
