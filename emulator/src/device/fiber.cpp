#include "fiber.h"
#include <cstring>

// Pushed and popped: what the calling convention says a callee keeps. (Rounding modes are the same in all fibers.)
#if defined(__x86_64__)

asm(R"(
    .text
    .globl emulator_fiber_switch
    .hidden emulator_fiber_switch
    .type emulator_fiber_switch, @function
emulator_fiber_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_fiber_switch, .-emulator_fiber_switch
)");

namespace emulator {

void* fiber_prepare(void* stack, size_t bytes, void (*entry)()) {
    uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15);
    uintptr_t* frame = reinterpret_cast<uintptr_t*>(top) - 8;  // six registers, the entry, a return address of 0
    std::memset(frame, 0, 8 * sizeof(uintptr_t));
    frame[6] = reinterpret_cast<uintptr_t>(entry);
    return frame;
}

}  // namespace emulator

#elif defined(__aarch64__)

asm(R"(
    .text
    .globl emulator_fiber_switch
    .hidden emulator_fiber_switch
    .type emulator_fiber_switch, %function
emulator_fiber_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulator_fiber_switch, .-emulator_fiber_switch
)");

namespace emulator {

void* fiber_prepare(void* stack, size_t bytes, void (*entry)()) {
    uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15);
    uintptr_t* frame = reinterpret_cast<uintptr_t*>(top) - 20;
    std::memset(frame, 0, 20 * sizeof(uintptr_t));
    frame[11] = reinterpret_cast<uintptr_t>(entry);  // x30
    return frame;
}

}  // namespace emulator

#else
#error "cuda-emulator switches fibers on x86-64 and aarch64 only"
#endif
