// What CUDA C has beyond C++, as far as the kernels use it.
#include <math.h>

#define LONGREEL_SHIM 1
#define __global__ __attribute__((visibility("default"), used))
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
// Only read by `compile.rs`; a compiler passes over what it does not know.
#define __launch_bounds__(threads, ...) __attribute__((shim_bound(threads)))
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static const
// Its memory is poisoned before each block, see launch.h.
#define __shared__ static thread_local

#define threadIdx (shim::self().index)
#define blockIdx (shim::worker->block)
#define blockDim (shim::worker->block_dim)
#define gridDim (shim::worker->grid_dim)
#define warpSize 32

#define SHIM_VECTOR(type, name, bytes)                                          \
    struct __align__(2 * bytes) name##2 {                                       \
        type x, y;                                                              \
    };                                                                          \
    struct __align__(4 * bytes) name##4 {                                       \
        type x, y, z, w;                                                        \
    };                                                                          \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }            \
    inline name##4 make_##name##4(type x, type y, type z, type w) {             \
        return {x, y, z, w};                                                    \
    }
SHIM_VECTOR(float, float, 4)
SHIM_VECTOR(int, int, 4)
SHIM_VECTOR(unsigned, uint, 4)
SHIM_VECTOR(unsigned short, ushort, 2)
SHIM_VECTOR(unsigned char, uchar, 1)
#undef SHIM_VECTOR

template <class To, class From>
static inline To shim_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits of another size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float v) { return shim_bits<int>(v); }
inline unsigned __float_as_uint(float v) { return shim_bits<unsigned>(v); }
inline float __int_as_float(int v) { return shim_bits<float>(v); }
inline float __uint_as_float(unsigned v) { return shim_bits<float>(v); }

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float a) { return expf(a); }
inline float __exp2f(float a) { return exp2f(a); }
inline float __logf(float a) { return logf(a); }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }

#define SHIM_MIN_MAX(type)                                         \
    inline type min(type a, type b) { return b < a ? b : a; }      \
    inline type max(type a, type b) { return a < b ? b : a; }
SHIM_MIN_MAX(int)
SHIM_MIN_MAX(unsigned)
SHIM_MIN_MAX(long long)
SHIM_MIN_MAX(unsigned long long)
#undef SHIM_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v ? __builtin_clz(v) : 32; }
inline int __ffs(int v) { return __builtin_ffs(v); }

template <class T>
static inline T __ldg(const T *p) {
    return *p;
}

// Blocks run on several system threads.
template <class T>
static inline T atomicAdd(T *at, T value) {
    return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);
}
static inline float atomicAdd(float *at, float value) {
    auto bits = reinterpret_cast<unsigned *>(at);
    unsigned old = __atomic_load_n(bits, __ATOMIC_SEQ_CST), wanted;
    do wanted = __float_as_uint(__uint_as_float(old) + value);
    while (!__atomic_compare_exchange_n(bits, &old, wanted, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST));
    return __uint_as_float(old);
}
template <class T>
static inline T atomicOr(T *at, T value) {
    return __atomic_fetch_or(at, value, __ATOMIC_SEQ_CST);
}
template <class T>
static inline T atomicExch(T *at, T value) {
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);
}
template <class T>
static inline T atomicMax(T *at, T value) {
    T old = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (old < value && !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_SEQ_CST,
                                                       __ATOMIC_SEQ_CST)) {
    }
    return old;
}
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() {}

static inline void __syncthreads() { shim::barrier(0); }
static inline int __syncthreads_or(int v) { return shim::barrier(v != 0) != 0; }
static inline int __syncthreads_and(int v) { return shim::barrier(v == 0) == 0; }
static inline int __syncthreads_count(int v) { return shim::barrier(v != 0); }

static inline void __syncwarp(unsigned mask = ~0u) {
    shim::collective<char, char>(mask, 0, [](auto, auto, unsigned) {});
}

template <class T>
struct ShimShuffle {
    T value;
    int source;
};

// What a lane that is not there would give is poison.
template <class T>
static inline T shim_shuffle(unsigned mask, T value, int source) {
    ShimShuffle<T> mine{value, source};
    return shim::collective<ShimShuffle<T>, T>(mask, mine, [](auto in, auto out, unsigned) {
        for (int lane = 0; lane < 32; lane++) {
            if (!out[lane]) continue;
            auto from = in[in[lane]->source];
            if (from) *out[lane] = from->value;
            else memset(out[lane], shim::POISON, sizeof(T));
        }
    });
}
static inline int shim_lane() { return int(shim::worker->current % 32); }
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int lane = shim_lane();
    return shim_shuffle(mask, value, (lane & -width) | (source & (width - 1)));
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
    int lane = shim_lane(), source = lane ^ with;
    return shim_shuffle(mask, value, (source & -width) == (lane & -width) ? source : lane);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    int lane = shim_lane(), source = lane + int(by);
    return shim_shuffle(mask, value, source < (lane & -width) + width ? source : lane);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    int lane = shim_lane(), source = lane - int(by);
    return shim_shuffle(mask, value, source >= (lane & -width) ? source : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int vote) {
    return shim::collective<int, unsigned>(mask, vote, [](auto in, auto out, unsigned) {
        unsigned votes = 0;
        for (int lane = 0; lane < 32; lane++)
            if (in[lane] && *in[lane]) votes |= 1u << lane;
        for (int lane = 0; lane < 32; lane++)
            if (out[lane]) *out[lane] = votes;
    });
}
static inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
static inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, !vote) == 0; }

// The block's dynamic shared memory, under `name`.
#define DYNAMIC_SHARED(name) unsigned char *name = shim::worker->shared
