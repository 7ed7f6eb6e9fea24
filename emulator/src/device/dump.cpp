#include "dump.h"
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include "arena.h"
#include "profile.h"
#include "random.h"

namespace emulator {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are written as they lie in memory");

static uint64_t number_of(const char* variable, uint64_t otherwise) {
    const char* const text = std::getenv(variable);
    return text && *text ? std::strtoull(text, nullptr, 0) : otherwise;
}

struct Settings {
    const char* folder = std::getenv("CUDA_EMULATOR_DUMP");
    uint64_t every = number_of("CUDA_EMULATOR_DUMP_EVERY", 1);
    uint64_t most_bytes = number_of("CUDA_EMULATOR_DUMP_BYTES", uint64_t(64) << 20);
};

Dump::Dump(const CudaEmulatorLaunch& r, const Kernel& kernel, int device) {
    static const Settings settings;
    static std::atomic<uint64_t> serials{0};
    if (!settings.folder || !*settings.folder) return;
    const uint64_t serial = serials++;
    if (settings.every > 1 && Random{serial}.next() % settings.every != 0) return;
    extents_ = live_extents(device);
    uint64_t total = 0;
    for (const Extent& e : extents_) total += e.bytes;
    if (total > settings.most_bytes) return;
    char name[64];
    std::snprintf(name, sizeof(name), "/%d-%07llu.launch", static_cast<int>(getpid()),
                  static_cast<unsigned long long>(serial));
    path_ = std::string(settings.folder) + name;
    file_ = std::fopen(partial_path().c_str(), "wbe");
    if (!file_) {
        error_ = errno;
        fail();
        return;
    }

    bytes("CUDALNCH", 8);
    number(1);
    text(kernel.build);
    text(kernel.name);
    for (const unsigned n : r.grid) number(n);
    for (const unsigned n : r.block) number(n);
    number(r.cluster[0] ? r.cluster[0] : 1);
    number(r.cooperative != 0);
    number(r.dynamic_shared_bytes);
    number(static_cast<uint64_t>(profile(device).major * 10 + profile(device).minor));
    number(kernel.argument_sizes.size());
    for (size_t i = 0; i < kernel.argument_sizes.size(); i++) {
        number(kernel.argument_sizes[i]);
        bytes(r.arguments[i], kernel.argument_sizes[i]);
    }
    number(extents_.size());
    for (const Extent& e : extents_) {
        number(arena.base + e.offset);
        number(e.bytes);
    }
    memory();
}

void Dump::finish(int code) {
    if (!file_) return;
    memory();
    number(static_cast<uint64_t>(code));
    bytes("ENDOFLNC", 8);
    if (std::fclose(file_) != 0 && !error_) error_ = errno;
    if (!error_ && std::rename(partial_path().c_str(), path_.c_str()) != 0) error_ = errno;
    if (!error_) return;
    std::remove(partial_path().c_str());
    fail();
}

void Dump::number(uint64_t value) { bytes(&value, sizeof(value)); }

void Dump::bytes(const void* from, size_t count) {
    if (std::fwrite(from, 1, count, file_) != count && !error_) error_ = errno;
}

void Dump::text(const std::string& text) {
    number(text.size());
    bytes(text.data(), text.size());
}

void Dump::memory() {
    std::vector<uint8_t> written;
    for (const Extent& e : extents_) {
        bytes(reinterpret_cast<const void*>(arena.base + e.offset), e.bytes);
        written.resize(e.bytes);
        for (size_t i = 0; i < e.bytes; i++) written[i] = arena.state[e.offset + i] == kWritten;
        bytes(written.data(), e.bytes);
    }
}

// Says so once a process; the launch goes on.
void Dump::fail() const {
    static std::atomic<bool> is_said{false};
    if (is_said.exchange(true)) return;
    std::fprintf(stderr, "cuda-emulator: %s: %s\n", path_.c_str(), std::strerror(error_));
}

}  // namespace emulator
