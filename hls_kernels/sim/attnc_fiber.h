#pragma once
// Stacks that take turns on one thread: `attnc_switch(&mine, other)` leaves the running one, whose stack pointer is kept in `mine`, and goes
// on where `other` left. Only what the calling convention has a function keep is saved, and no system call is made, unlike swapcontext's.

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)

extern "C" void attnc_switch(void** mine, void* other);
// rbx, rbp and r12 to r15.
asm(R"(
.section .text.attnc_switch,"axG",@progbits,attnc_switch,comdat
.weak attnc_switch
.type attnc_switch, @function
attnc_switch:
  pushq %rbx
  pushq %rbp
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
  popq %rbp
  popq %rbx
  ret
.size attnc_switch, .-attnc_switch
.text
)");

namespace attnc {
namespace cosim {

// A stack that begins with `entry`, which never returns.
inline void* prepared(char* stack, std::size_t size, void (*entry)()) {
  std::uintptr_t top = (reinterpret_cast<std::uintptr_t>(stack) + size) & ~std::uintptr_t(15);
  void** at = reinterpret_cast<void**>(top);
  *--at = nullptr;  // where the entry would return to; its stack is aligned as after a call
  *--at = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--at = nullptr;
  return at;
}

}  // namespace cosim
}  // namespace attnc

#elif defined(__aarch64__)

extern "C" void attnc_switch(void** mine, void* other);
// x19 to x30 and d8 to d15.
asm(R"(
.section .text.attnc_switch,"axG",@progbits,attnc_switch,comdat
.weak attnc_switch
.type attnc_switch, %function
attnc_switch:
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
  mov x2, sp
  str x2, [x0]
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
.size attnc_switch, .-attnc_switch
.text
)");

namespace attnc {
namespace cosim {

inline void* prepared(char* stack, std::size_t size, void (*entry)()) {
  std::uintptr_t top = (reinterpret_cast<std::uintptr_t>(stack) + size) & ~std::uintptr_t(15);
  void** at = reinterpret_cast<void**>(top) - 20;
  for (int i = 0; i < 20; ++i) at[i] = nullptr;
  at[11] = reinterpret_cast<void*>(entry);  // x30, where it returns to
  return at;
}

}  // namespace cosim
}  // namespace attnc

#else

#include <ucontext.h>

namespace attnc {
namespace cosim {

// Elsewhere the C library's contexts, which lie at the lower end of their stacks.
inline void* prepared(char* stack, std::size_t size, void (*entry)()) {
  ucontext_t* context = reinterpret_cast<ucontext_t*>(stack);
  const std::size_t head = (sizeof(ucontext_t) + 63) / 64 * 64;
  getcontext(context);
  context->uc_stack.ss_sp = stack + head;
  context->uc_stack.ss_size = size - head;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}

}  // namespace cosim
}  // namespace attnc

inline void attnc_switch(void** mine, void* other) {
  ucontext_t here;
  *mine = &here;
  swapcontext(&here, static_cast<ucontext_t*>(other));
}

#endif
