// How the driver finds and starts the kernels of a module.
#include <link.h>
#include <pthread.h>

#include <utility>

namespace shim {

template <class T>
struct Code;
template <class T>
struct Code<T *> {
    static constexpr char code = 'p';
    static T *of(const Argument &a) { return static_cast<T *>(a.pointer); }
};
template <>
struct Code<int> {
    static constexpr char code = 'i';
    static int of(const Argument &a) { return a.integer; }
};
template <>
struct Code<long long> {
    static constexpr char code = 'l';
    static long long of(const Argument &a) { return a.longer; }
};
template <>
struct Code<float> {
    static constexpr char code = 'f';
    static float of(const Argument &a) { return a.single; }
};

template <auto F>
struct Entry;
template <class... P, void (*F)(P...)>
struct Entry<F> {
    static constexpr char signature[] = {Code<P>::code..., 0};
    static void invoke(const Argument *arguments) {
        call(arguments, std::index_sequence_for<P...>());
    }
    template <size_t... I>
    static void call(const Argument *arguments, std::index_sequence<I...>) {
        F(Code<P>::of(arguments[I])...);
    }
};

// The static shared memory of a module is its thread-local variables.
static int find_statics(dl_phdr_info *info, size_t, void *) {
    auto here = reinterpret_cast<uintptr_t>(&find_statics);
    bool found = false;
    size_t bytes = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        auto &header = info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + header.p_vaddr;
        if (header.p_type == PT_LOAD && here >= start && here < start + header.p_memsz) found = true;
        if (header.p_type == PT_TLS) bytes = header.p_memsz;
    }
    if (!found || !info->dlpi_tls_data) return found;
    worker->statics = static_cast<unsigned char *>(info->dlpi_tls_data);
    worker->statics_end = worker->statics + bytes;
    return 1;
}

// Static shared memory holds nothing at a block's start.
static void poison_statics() {
    Worker *kept = worker;
    memset(kept->statics, POISON, kept->statics_end - kept->statics);
    // The compiler cannot know that `worker` is among them.
    __asm__ volatile("" : : "r"(&worker) : "memory");
    worker = kept;
}

// Workers of threads that have ended, for those that begin: their stacks are many mappings, of which
// the system allows a process only so many.
static Worker *spare;
static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t thread_end;
static pthread_once_t thread_end_made = PTHREAD_ONCE_INIT;

static void set_aside(void *ended) {
    auto w = static_cast<Worker *>(ended);
    pthread_mutex_lock(&spare_lock);
    w->next = spare;
    spare = w;
    pthread_mutex_unlock(&spare_lock);
}

static void make_thread_end() {
    if (pthread_key_create(&thread_end, &set_aside)) abort();
}

static void take_worker() {
    pthread_once(&thread_end_made, &make_thread_end);
    pthread_mutex_lock(&spare_lock);
    worker = spare;
    if (spare) spare = spare->next;
    pthread_mutex_unlock(&spare_lock);
    if (!worker) worker = static_cast<Worker *>(calloc(1, sizeof(Worker)));
    if (!worker || pthread_setspecific(thread_end, worker)) abort();
}

static void prepare(size_t shared_bytes) {
    if (!worker) {
        take_worker();
        dl_iterate_phdr(find_statics, nullptr);
    }
    if (!worker->shared || worker->shared_capacity < shared_bytes) {
        free(worker->shared);
        worker->shared_capacity = shared_bytes;
        size_t bytes = (shared_bytes + GUARD_BYTES + 127) / 128 * 128;
        worker->shared = static_cast<unsigned char *>(aligned_alloc(128, bytes));
        if (!worker->shared) abort();
    }
    worker->shared_end = worker->shared + shared_bytes;
}

}  // namespace shim

// What the compiler found to be undefined while the kernel ran (-fsanitize): a value that is not
// aligned, an index outside its array, a division by zero.
namespace shim {
struct Place {
    const char *file;
    unsigned line, column;
};
}  // namespace shim
#define SHIM_CHECK(name, what)                                                              \
    extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##name##_abort(    \
        shim::Place *place, ...) {                                                          \
        shim::fail("%s:%u:%u: " what, place->file, place->line, place->column);             \
    }
SHIM_CHECK(type_mismatch_v1, "an access at an address that is not aligned, or null")
SHIM_CHECK(out_of_bounds, "an index outside its array")
SHIM_CHECK(divrem_overflow, "a division by zero")
SHIM_CHECK(shift_out_of_bounds, "a shift by too many places")
SHIM_CHECK(add_overflow, "an addition that overflows")
SHIM_CHECK(sub_overflow, "a subtraction that overflows")
SHIM_CHECK(mul_overflow, "a product that overflows")
SHIM_CHECK(negate_overflow, "a negation that overflows")
SHIM_CHECK(pointer_overflow, "a pointer that overflows")

extern const shim::Kernel shim_kernels[];

extern "C" __attribute__((visibility("default"))) const shim::Kernel *shim_table() {
    return shim_kernels;
}

// Runs the blocks `first .. last` (x fastest) on this system thread. False, with `error` written,
// when a kernel did what no kernel may.
extern "C" __attribute__((visibility("default"))) bool shim_run(
    const shim::Kernel *kernel, const shim::Argument *arguments, const unsigned *grid,
    unsigned threads, size_t shared_bytes, unsigned long long first, unsigned long long last,
    bool backwards, char *error, size_t error_bytes) {
    using namespace shim;
    prepare(shared_bytes);
    Worker &w = *worker;
    w.kernel = kernel;
    w.arguments = arguments;
    w.threads = threads;
    w.block_dim = {threads, 1, 1};
    w.grid_dim = {grid[0], grid[1], grid[2]};
    w.failed = false;
    w.error = error;
    w.error_bytes = error_bytes;
    for (unsigned long long block = first; block < last && !w.failed; block++) {
        w.block = {unsigned(block % grid[0]), unsigned(block / grid[0] % grid[1]),
                   unsigned(block / grid[0] / grid[1])};
        poison_statics();
        memset(w.shared, POISON, shared_bytes + GUARD_BYTES);
        run_block((block & 1) != backwards);
        for (size_t i = 0; i < GUARD_BYTES && !w.failed; i++)
            if (w.shared_end[i] != POISON) {
                snprintf(error, error_bytes, "%s, block %llu writes %zu bytes behind its %zu bytes "
                         "of shared memory", kernel->name, block, i, shared_bytes);
                w.failed = true;
            }
    }
    return !w.failed;
}
