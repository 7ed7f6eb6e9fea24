// Launches in files, for programs that run the same kernels by other means and compare what they leave.
//
// CUDA_EMULATOR_DUMP names their folder, which must exist; without it there are none. CUDA_EMULATOR_DUMP_EVERY=n: one
// launch in n, drawn by a hash of its serial number. CUDA_EMULATOR_DUMP_BYTES: no launch with more bytes of allocations
// than this, 64 MiB unless it is set. A launch that is refused has no file and no number.
//
// A file holds all live allocations of the launch's device, whichever host thread made them: it tells what the launch did
// where one host thread at a time uses the device. It is named <pid>-<serial>.launch and appears whole. Every number is a
// u64, little-endian:
//
//   "CUDALNCH", version = 1
//   the build, the kernel's mangled name: the length and the bytes of each
//   grid x y z, block x y z, CTAs of a cluster (1 without clusters), cooperative (0 or 1), bytes of dynamic shared memory,
//   compute capability (90 for 9.0)
//   the number of arguments; the size and the bytes of each
//   the number of allocations; the address and the size of each
//   of each allocation its bytes before the launch, then a byte for each: 1 where it was ever written, else 0
//   the same after the launch
//   the launch's code (0: success), "ENDOFLNC"
//
// The build is the CUDA_EMULATOR_BUILD of the unit that launches (cuda_emulator/launch.h), empty where it has none. The name
// is empty where the executable has no symbol for the kernel.
#pragma once
#include <cstdio>
#include <string>
#include <vector>
#include "launch.h"
#include "memory.h"

namespace emulator {

// One launch's file; nothing where the launch is not to be written.
class Dump {
  public:
    // Writes everything up to the memory before the launch.
    Dump(const CudaEmulatorLaunch& request, const Kernel& kernel, int device);
    Dump(const Dump&) = delete;
    // Writes the rest, and gives the file its name.
    void finish(int code);

  private:
    FILE* file_ = nullptr;
    int error_ = 0;  // the first one's errno
    std::string path_;
    std::vector<Extent> extents_;

    std::string partial_path() const { return path_ + ".partial"; }
    void number(uint64_t value);
    void bytes(const void* from, size_t count);
    void text(const std::string& text);
    void memory();
    void fail() const;
};

}  // namespace emulator
