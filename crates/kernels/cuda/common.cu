// What all kernels share; it is put in front of each other source. No header is included: NVRTC has
// none at run time. Under LONGREEL_SHIM the tests' C++ compiler reads this, and the shim has the
// functions that are PTX here.
//
// Conventions: activations are f32 or bf16 and arithmetic is f32; parameters of norms, modulations
// and biases are f32. A row is the last axis. Offsets are 64-bit.

typedef long long i64;
typedef unsigned short u16;
typedef unsigned char u8;
typedef float f32;

// bfloat16.
struct __align__(2) bf16 {
    u16 bits;
};

// 8-bit floats of four bits of exponent: `float8_e4m3fn`.
struct e4m3 {
    u8 bits;
};

#ifndef LONGREEL_SHIM

// The block's dynamic shared memory, under `name`.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

__device__ __forceinline__ u16 f32_to_bf16_bits(float v) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
}

// `low` in the lower half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ unsigned shared_address(const void *p) {
    return (unsigned)__cvta_generic_to_shared(p);
}

// d += a b, for bf16 a (16 x 16, rows) and b (16 x 8, columns), by the whole warp.
__device__ __forceinline__ void mma_m16n8k16_bf16(float *d, const unsigned *a, const unsigned *b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Cards from Ada on multiply e4m3, and compilers from CUDA 12.4 on say so to all of them. Those of 9.0 and 10.0 do it by way
// of f16 and at its rate (F2FP and HMMA in their machine code, where 8.9 and 12.0 have QMMA): their rate of 8 bits is that of
// instructions of their own, which the vendor's library has.
#if __CUDA_ARCH__ >= 890 && __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1204
#define MMA_E4M3
// d += a b, for e4m3 a (16 x 32, rows) and b (32 x 8, columns), by the whole warp.
__device__ __forceinline__ void mma_m16n8k32_e4m3(float *d, const unsigned *a, const unsigned *b) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// Lane 8 j + i gives the address of row i (8 values of 16 bits, in shared memory) of matrix j. r[j]
// becomes values 2 (lane % 4) and the next of row lane / 4 of matrix j, or of its transpose.
__device__ __forceinline__ void ldmatrix_x4(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// Begins to copy 16 bytes to shared memory, of which only `valid` (0 to 16) are read and the rest
// are zeros.
__device__ __forceinline__ void cp_async_16(void *shared, const void *global, int valid = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(global), "r"(valid)
                 : "memory");
}

// Closes a group of copies.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all of this thread's groups but the last `LEFT`.
template <int LEFT>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" : : "n"(LEFT) : "memory");
}

#else

__device__ __forceinline__ u16 f32_to_bf16_bits(float v) {
    unsigned bits = __float_as_uint(v);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    return f32_to_bf16_bits(low) | (unsigned)f32_to_bf16_bits(high) << 16;
}

#endif

__device__ __forceinline__ float to_f32(float v) { return v; }
__device__ __forceinline__ float to_f32(bf16 v) { return __uint_as_float((unsigned)v.bits << 16); }
__device__ __forceinline__ void set(float &to, float v) { to = v; }
__device__ __forceinline__ void set(bf16 &to, float v) { to.bits = f32_to_bf16_bits(v); }

__device__ __forceinline__ float to_f32(e4m3 v) {
    unsigned magnitude = v.bits & 0x7f;
    // Moved to a single's places it reads as a number 2^120 too small, subnormals included.
    float scaled = __fmul_rn(__uint_as_float(magnitude << 20), __uint_as_float((127 + 120) << 23));
    unsigned special = magnitude == 0x7f ? 0x7fc00000 : 0;
    return __uint_as_float(__float_as_uint(scaled) | special | (v.bits & 0x80u) << 24);
}
// To the nearest, ties to even; what is too large becomes 448, as the format has no infinity.
__device__ __forceinline__ void set(e4m3 &to, float v) {
    unsigned bits = __float_as_uint(v), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
    // Below 2^-6 multiples of 2^-9, which is the last place of 2^14.
    unsigned small = __float_as_uint(__fadd_rn(__uint_as_float(magnitude), 16384.0f)) - 0x46800000u;
    // Above it three bits behind the exponent, whose bias is 127 there and 7 here.
    unsigned normal = (magnitude - (120u << 23) + 0x7ffff + (magnitude >> 20 & 1)) >> 20;
    unsigned code = magnitude < 0x3c800000u ? small : normal < 0x7e ? normal : 0x7e;
    to.bits = (u8)(sign | (magnitude > 0x7f800000u ? 0x7f : code));
}

// Writes a kernel for each element, or for each pair of them: `DEFINE(A)`, `DEFINE(A, B)`.
#define FOR_EACH_ELEMENT(DEFINE) DEFINE(f32) DEFINE(bf16)
#define FOR_EACH_PAIR(DEFINE) DEFINE(f32, f32) DEFINE(f32, bf16) DEFINE(bf16, f32) DEFINE(bf16, bf16)

// N neighbours, read and written at once where they fill 16 bytes.
template <class T, int N>
struct __align__(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
    T v[N];
};

template <int N, class T>
__device__ __forceinline__ void load(float *to, const T *from) {
    Pack<T, N> pack = *reinterpret_cast<const Pack<T, N> *>(from);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = to_f32(pack.v[i]);
}

template <int N, class T>
__device__ __forceinline__ void store(T *to, const float *from) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) set(pack.v[i], from[i]);
    *reinterpret_cast<Pack<T, N> *>(to) = pack;
}

// Values that a thread takes at once where rows and addresses allow.
#define WIDE 8

__device__ __forceinline__ bool aligned(const void *p) {
    return reinterpret_cast<unsigned long long>(p) % 16 == 0;
}

__device__ __forceinline__ i64 thread_of_grid() {
    return (i64)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ i64 threads_of_grid() { return (i64)gridDim.x * blockDim.x; }

// Calls `wide(i)` for the start of each whole run of WIDE values and `narrow(i)` for each value that
// is left, over all threads of the grid; all are left unless addresses are `whole`.
template <class Wide, class Narrow>
__device__ __forceinline__ void for_each(i64 len, bool whole, Wide wide, Narrow narrow) {
    i64 packs = whole ? len / WIDE : 0;
    for (i64 i = thread_of_grid(); i < packs; i += threads_of_grid()) wide(i * WIDE);
    for (i64 i = packs * WIDE + thread_of_grid(); i < len; i += threads_of_grid()) narrow(i);
}

__device__ __forceinline__ float times_sigmoid(float x, float z) { return x / (1.0f + expf(-z)); }

// `activation` is `crate::Activation` in its order.
__device__ __forceinline__ float activate(float x, int activation) {
    switch (activation) {
    case 1: return 0.5f * x * erfcf(x * -0.70710678f);  // GELU: x Phi(x)
    // GELU by tanh: (1 + tanh u) / 2 is the sigmoid of 2 u, u = sqrt(2 / pi) (x + 0.044715 x^3).
    case 2: return times_sigmoid(x, x * fmaf(x * x, 0.071354814f, 1.595769f));
    case 3: return times_sigmoid(x, 1.702f * x);  // CLIP's
    case 4: return times_sigmoid(x, x);  // SiLU
    default: return x;
    }
}

// Over the lanes of each group of `size` lanes, a power of two; every lane gets the result.
__device__ __forceinline__ float group_sum(float v, int size = 32) {
    for (int step = size / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffff, v, step);
    return v;
}

// Over a block of whole warps; every thread gets the result. `part` is 33 floats of shared memory,
// which may be used again at once.
__device__ __forceinline__ float block_sum(float v, float *part) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    v = group_sum(v);
    if (warps == 1) return v;
    if (lane == 0) part[warp] = v;
    __syncthreads();
    if (warp == 0) {
        float sum = group_sum(lane < warps ? part[lane] : 0.0f);
        if (lane == 0) part[32] = sum;
    }
    __syncthreads();
    return part[32];
}
