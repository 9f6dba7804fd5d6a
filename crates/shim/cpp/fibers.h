// Runs the blocks of a kernel on the CPU: every thread of a block is a fiber, which gives way at
// barriers and warp collectives and nowhere else. All fibers of a block live on one system thread.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct uint3 {
    unsigned x, y, z;
};
using dim3 = uint3;

// Keeps the callee's registers on the stack, the stack pointer in `*from`, and goes on at `to`.
extern "C" void shim_switch(void **from, void *to) __asm__("shim_switch");
#if defined(__x86_64__)
__asm__(R"(
    .text
    .p2align 4
shim_switch:
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
)");
#elif defined(__aarch64__)
__asm__(R"(
    .text
    .p2align 4
shim_switch:
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
)");
#else
#error "fibers are written for x86-64 and aarch64"
#endif

namespace shim {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t PAGE_BYTES = 4096;
constexpr size_t GUARD_BYTES = 1024;
constexpr unsigned MOST_THREADS = 1024;
constexpr unsigned char POISON = 0xff;

// An argument of a kernel, as the driver gives it.
struct Argument {
    long long kind;
    union {
        void *pointer;
        int integer;
        long long longer;
        float single;
    };
};

struct Kernel {
    const char *name;
    // One letter a parameter: p(ointer), i(nt), l(ong long), f(loat).
    const char *signature;
    void (*invoke)(const Argument *);
    // Threads of a block at most, where the kernel says so; else 0.
    unsigned most_threads;
};

enum State { READY, AT_BARRIER, AT_COLLECTIVE, DONE };

// Copies to shared memory that were asked for and are not waited for yet.
struct PendingCopy {
    void *to;
    const void *from;
    unsigned bytes, valid;
    // The group it was committed in.
    unsigned long long group;
};

struct Fiber {
    void *stack_pointer;
    char *stack;
    uint3 index;
    State state;
    PendingCopy *copies;
    size_t copy_count, copy_capacity;
    unsigned long long groups;
};

// Lanes that meet: where each has put what it brings and where it wants its result.
struct Meeting {
    unsigned mask, arrived;
    const void *what;
    const void *in[32];
    void *out[32];
    // Computes all results once everybody is there.
    void (*finish)(Meeting &);
    const void *closure;
};

struct Warp {
    unsigned live;
    // By the lowest lane of the mask: parts of a warp may meet apart.
    Meeting meetings[32];
};

// What a system thread has at hand to run blocks.
struct Worker {
    Fiber fibers[MOST_THREADS];
    Warp warps[MOST_THREADS / 32];
    void *scheduler;
    unsigned current, threads, live, at_barrier;
    uint3 block, block_dim, grid_dim;
    unsigned char *shared, *shared_end, *statics, *statics_end;
    size_t shared_capacity;
    int barrier_sum[2];
    unsigned barrier_turn;
    const Kernel *kernel;
    const Argument *arguments;
    bool failed;
    char *error;
    size_t error_bytes;
    // Of those whose thread has ended.
    Worker *next;
};

// The only thread-local variable besides the kernels' static shared memory, see `poison_statics`.
static thread_local Worker *worker;

inline Fiber &self() { return worker->fibers[worker->current]; }

inline void give_way() { shim_switch(&self().stack_pointer, worker->scheduler); }

// Ends the launch; the fiber is never resumed.
[[noreturn]] __attribute__((format(printf, 1, 2))) static void fail(const char *format, ...) {
    Worker &w = *worker;
    if (!w.failed) {
        uint3 b = w.block;
        int n = snprintf(w.error, w.error_bytes, "%s, block (%u, %u, %u), thread %u: ",
                         w.kernel->name, b.x, b.y, b.z, w.current);
        if (n > 0 && size_t(n) < w.error_bytes) {
            va_list list;
            va_start(list, format);
            vsnprintf(w.error + n, w.error_bytes - n, format, list);
            va_end(list);
        }
        w.failed = true;
    }
    self().state = DONE;
    give_way();
    abort();
}

inline bool in_shared(const void *p, size_t bytes) {
    auto at = static_cast<const unsigned char *>(p);
    return (at >= worker->shared && at + bytes <= worker->shared_end) ||
           (at >= worker->statics && at + bytes <= worker->statics_end);
}

static void open_barrier() {
    Worker &w = *worker;
    w.at_barrier = 0;
    w.barrier_turn ^= 1;
    w.barrier_sum[w.barrier_turn] = 0;
    for (unsigned i = 0; i < w.threads; i++)
        if (w.fibers[i].state == AT_BARRIER) w.fibers[i].state = READY;
}

// Waits for all threads of the block that still run; gives the sum of what they bring.
static int barrier(int value) {
    Worker &w = *worker;
    unsigned turn = w.barrier_turn;
    w.barrier_sum[turn] += value;
    w.at_barrier++;
    if (w.at_barrier == w.live) {
        open_barrier();
    } else {
        self().state = AT_BARRIER;
        give_way();
    }
    return w.barrier_sum[turn];
}

static void close_meeting(Warp &warp, unsigned first, Meeting &meeting) {
    meeting.finish(meeting);
    for (unsigned lane = 0; lane < 32; lane++)
        if (meeting.arrived >> lane & 1) {
            Fiber &fiber = worker->fibers[first + lane];
            if (fiber.state == AT_COLLECTIVE) fiber.state = READY;
        }
    meeting.arrived = 0;
}

// A warp collective. Each lane of `mask` that still runs brings an `In`; the last one calls
// `all(in, out, arrived)` with pointers to everybody's (null where a lane is not there), which writes
// every `*out[lane]`. `all` may capture what is the same for all lanes.
template <class In, class Out, class All>
static Out collective(unsigned mask, const In &in, const All &all) {
    static const char what = 0;
    Worker &w = *worker;
    unsigned lane = w.current % 32, first = w.current - lane;
    Warp &warp = w.warps[w.current / 32];
    if (!(mask >> lane & 1)) fail("a warp collective without its own lane in the mask %#x", mask);
    Meeting &meeting = warp.meetings[__builtin_ctz(mask)];
    if (meeting.arrived == 0) {
        meeting.mask = mask;
        meeting.what = &what;
    } else if (meeting.mask != mask || meeting.what != &what) {
        fail("lanes of a warp meet in different collectives, or with masks %#x and %#x",
             meeting.mask, mask);
    }
    Out out{};
    meeting.in[lane] = &in;
    meeting.out[lane] = &out;
    meeting.arrived |= 1u << lane;
    meeting.closure = &all;
    meeting.finish = [](Meeting &m) {
        const In *in[32];
        Out *out[32];
        for (unsigned i = 0; i < 32; i++) {
            bool there = m.arrived >> i & 1;
            in[i] = there ? static_cast<const In *>(m.in[i]) : nullptr;
            out[i] = there ? static_cast<Out *>(m.out[i]) : nullptr;
        }
        (*static_cast<const All *>(m.closure))(in, out, m.arrived);
    };
    if (meeting.arrived == (mask & warp.live)) {
        close_meeting(warp, first, meeting);
    } else {
        self().state = AT_COLLECTIVE;
        give_way();
    }
    return out;
}

// A thread that ends is waited for no longer.
static void leave() {
    Worker &w = *worker;
    Fiber &fiber = self();
    fiber.state = DONE;
    fiber.copy_count = 0;
    unsigned lane = w.current % 32;
    Warp &warp = w.warps[w.current / 32];
    warp.live &= ~(1u << lane);
    w.live--;
    for (Meeting &meeting : warp.meetings)
        if (meeting.arrived && meeting.arrived == (meeting.mask & warp.live))
            close_meeting(warp, w.current - lane, meeting);
    if (w.live && w.at_barrier == w.live) open_barrier();
}

static void fiber_main() {
    worker->kernel->invoke(worker->arguments);
    leave();
    give_way();
    abort();
}

static void begin(Fiber &fiber, unsigned index) {
    if (!fiber.stack) {
        void *stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED) abort();
        // An overflow stops here instead of in the neighbour's stack.
        mprotect(stack, PAGE_BYTES, PROT_NONE);
        fiber.stack = static_cast<char *>(stack);
    }
    auto top = reinterpret_cast<void **>(fiber.stack + STACK_BYTES);
#if defined(__x86_64__)
    top -= 2;
    *top = reinterpret_cast<void *>(&fiber_main);
    top -= 6;
#else
    top -= 20;
    top[11] = reinterpret_cast<void *>(&fiber_main);
#endif
    fiber.stack_pointer = top;
    fiber.index = {index, 0, 0};
    fiber.state = READY;
    fiber.copy_count = 0;
    fiber.groups = 0;
}

// Runs one block, its warps from the first on or from the last, each as far as it gets without the
// others: a missing barrier that one order hides shows in the other.
static void run_block(bool backwards) {
    Worker &w = *worker;
    const unsigned warps = (w.threads + 31) / 32;
    w.live = w.threads;
    w.at_barrier = 0;
    w.barrier_sum[0] = w.barrier_sum[1] = 0;
    for (unsigned i = 0; i < w.threads; i++) begin(w.fibers[i], i);
    for (unsigned i = 0; i * 32 < w.threads; i++) {
        unsigned lanes = w.threads - i * 32;
        w.warps[i].live = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        for (Meeting &meeting : w.warps[i].meetings) meeting.arrived = 0;
    }
    while (w.live && !w.failed) {
        bool moved = false;
        for (unsigned i = 0; i < warps && !w.failed; i++) {
            unsigned first = (backwards ? warps - 1 - i : i) * 32;
            unsigned lanes = w.threads - first < 32 ? w.threads - first : 32;
            for (bool more = true; more;) {
                more = false;
                for (unsigned j = 0; j < lanes && !w.failed; j++) {
                    unsigned which = first + (backwards ? lanes - 1 - j : j);
                    if (w.fibers[which].state != READY) continue;
                    moved = more = true;
                    w.current = which;
                    shim_switch(&w.scheduler, w.fibers[which].stack_pointer);
                }
            }
        }
        if (!moved && !w.failed) {
            unsigned stuck = 0;
            while (w.fibers[stuck].state == DONE) stuck++;
            w.current = stuck;
            snprintf(w.error, w.error_bytes,
                     "%s, block (%u, %u, %u): its threads wait for each other; thread %u at a %s",
                     w.kernel->name, w.block.x, w.block.y, w.block.z, stuck,
                     w.fibers[stuck].state == AT_BARRIER ? "barrier" : "warp collective");
            w.failed = true;
        }
    }
}

}  // namespace shim
