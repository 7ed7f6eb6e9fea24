// The symbols of the running executable, read from its file when a report needs them.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string>

namespace emulator {

// The mangled name of the function around an address; empty where there is none.
std::string symbol_at(uintptr_t address, uintptr_t* offset);
// The mangled name of the thread-local variable around an offset in the executable's block.
std::string thread_local_at(uintptr_t block_offset, uintptr_t* offset);
// Bytes of the `__shared__` variables that are declared in a kernel's own body (those of functions it calls have names that
// do not tell who calls them).
size_t static_shared_bytes(uintptr_t kernel);
// An address as tools like addr2line want it.
uintptr_t image_offset(const void* pc);

// Whether `bytes` from there on lie in one thread-local variable, as far as symbols tell.
bool inside_thread_local(uintptr_t block_offset, size_t bytes);

}  // namespace emulator
