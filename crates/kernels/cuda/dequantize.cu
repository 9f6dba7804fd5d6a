// Weights as files store them to f32 or bf16: the values of src/dequantize.rs, bit by bit. Products
// and differences are not contracted. Each thread makes 8 values.

__device__ __forceinline__ float f16_to_f32(unsigned half) {
    unsigned magnitude = half & 0x7fff;
    // Moved to a single's places it reads as a number 2^112 too small, subnormals included.
    float scaled = __fmul_rn(__uint_as_float(magnitude << 13), __uint_as_float((127 + 112) << 23));
    unsigned special = magnitude >= 0x7c00 ? 0x7f800000 : 0;
    return __uint_as_float(__float_as_uint(scaled) | special | (half & 0x8000) << 16);
}

// Formats of single values: what they are stored as, what eight of them are read in, and their value.
struct F32 {
    typedef unsigned Stored;
    typedef uint4 Word;
    static __device__ __forceinline__ float value(unsigned v) { return __uint_as_float(v); }
};
struct F16 {
    typedef u16 Stored;
    typedef uint4 Word;
    static __device__ __forceinline__ float value(unsigned v) { return f16_to_f32(v); }
};
struct BF16 {
    typedef u16 Stored;
    typedef uint4 Word;
    static __device__ __forceinline__ float value(unsigned v) { return __uint_as_float(v << 16); }
};
struct F8E4M3 {
    typedef u8 Stored;
    typedef uint2 Word;
    static __device__ __forceinline__ float value(unsigned v) { return to_f32(e4m3{(u8)v}); }
};
struct F8E5M2 {
    typedef u8 Stored;
    typedef uint2 Word;
    static __device__ __forceinline__ float value(unsigned v) { return f16_to_f32(v << 8); }
};

__device__ __forceinline__ float half_at(const u8 *p) {
    return f16_to_f32(*reinterpret_cast<const u16 *>(p));
}

// 8 values at a multiple of `sizeof(Word)`, read in words.
template <class Word, class T>
__device__ __forceinline__ void eight_stored(T *to, const T *from) {
    constexpr int WORDS = 8 * sizeof(T) / sizeof(Word);
    union {
        Word words[WORDS];
        T values[8];
    } both;
#pragma unroll
    for (int i = 0; i < WORDS; i++) both.words[i] = reinterpret_cast<const Word *>(from)[i];
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = both.values[i];
}

// Formats of blocks: `eight(v, block, part)` makes values 8 part .. 8 part + 7 of a block.

// A scale, then 32 signed bytes.
struct Q8_0 {
    static constexpr int BYTES = 34, VALUES = 32;
    static __device__ __forceinline__ void eight(float *v, const u8 *block, int part) {
        u8 q[8];
        eight_stored<u16>(q, block + 2 + part * 8);
        float d = half_at(block);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = __fmul_rn((float)(signed char)q[i], d);
    }
};

// A scale, 32 fifth bits, then nibbles: the low ones are the first half.
struct Q5_0 {
    static constexpr int BYTES = 22, VALUES = 32;
    static __device__ __forceinline__ void eight(float *v, const u8 *block, int part) {
        u8 q[8];
        eight_stored<u16>(q, block + 6 + part % 2 * 8);
        float d = half_at(block);
        int high = block[2 + part];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int low = q[i] >> (part / 2 * 4) & 15;
            v[i] = __fmul_rn((float)((low | (high >> i & 1) << 4) - 16), d);
        }
    }
};

// A scale, then nibbles: the low ones are the first half.
struct Q4_0 {
    static constexpr int BYTES = 18, VALUES = 32;
    static __device__ __forceinline__ void eight(float *v, const u8 *block, int part) {
        u8 q[8];
        eight_stored<u16>(q, block + 2 + part % 2 * 8);
        float d = half_at(block);
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = __fmul_rn((float)((q[i] >> (part / 2 * 4) & 15) - 8), d);
    }
};

// The 6-bit scale and minimum of group `j` (0 to 7) among the twelve packed bytes.
__device__ __forceinline__ void scale_min_k4(int j, const u8 *packed, float &scale, float &minimum) {
    if (j < 4) {
        scale = (float)(packed[j] & 63);
        minimum = (float)(packed[j + 4] & 63);
    } else {
        scale = (float)((packed[j + 4] & 15) | packed[j - 4] >> 6 << 4);
        minimum = (float)(packed[j + 4] >> 4 | packed[j] >> 6 << 4);
    }
}

// Eight groups of 32 with a 6-bit scale and minimum each; with FIFTH, a fifth bit for each value.
template <bool FIFTH>
struct QK {
    static constexpr int BYTES = FIFTH ? 176 : 144, VALUES = 256;
    static __device__ __forceinline__ void eight(float *v, const u8 *block, int part) {
        int group = part / 4, at = part % 4 * 8;
        float scale, minimum;
        scale_min_k4(group, block + 4, scale, minimum);
        float d = __fmul_rn(half_at(block), scale), m = __fmul_rn(half_at(block + 2), minimum);
        u8 q[8], fifth[8];
        eight_stored<uint2>(q, block + (FIFTH ? 48 : 16) + group / 2 * 32 + at);
        if constexpr (FIFTH) eight_stored<uint2>(fifth, block + 16 + at);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int code = q[i] >> (group % 2 * 4) & 15;
            if constexpr (FIFTH) code += (fifth[i] >> group & 1) * 16;
            v[i] = __fsub_rn(__fmul_rn(d, (float)code), m);
        }
    }
};
typedef QK<false> Q4_K;
typedef QK<true> Q5_K;

// Sixteen groups of 16 with a signed 8-bit scale each; four low bits and two high bits a value.
struct Q6_K {
    static constexpr int BYTES = 210, VALUES = 256;
    static __device__ __forceinline__ void eight(float *v, const u8 *block, int part) {
        int half = part / 16, quarter = part / 4 % 4, at = part % 4 * 8;
        u8 low[8], high[8];
        eight_stored<u16>(low, block + half * 64 + quarter % 2 * 32 + at);
        eight_stored<u16>(high, block + 128 + half * 32 + at);
        int scale = (signed char)block[192 + half * 8 + at / 16 + 2 * quarter];
        float d = __fmul_rn(half_at(block + 208), (float)scale);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int code = (low[i] >> (quarter / 2 * 4) & 15) | (high[i] >> (2 * quarter) & 3) << 4;
            v[i] = __fmul_rn(d, (float)(code - 32));
        }
    }
};

// Values in parts of `part` values have a factor each; without factors, `scales` is null.
struct Factors {
    const float *scales;
    i64 part;
    __device__ __forceinline__ float times(float v, i64 at) const {
        return scales ? __fmul_rn(v, scales[at / part]) : v;
    }
    __device__ __forceinline__ void times_eight(float *v, i64 at) const {
        if (!scales) return;
        if (part % 8 == 0) {
            float factor = scales[at / part];
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = __fmul_rn(v[i], factor);
        } else {
            for (int i = 0; i < 8; i++) v[i] = __fmul_rn(v[i], scales[(at + i) / part]);
        }
    }
};

// Single values.
#define DEFINE(Format, Out)                                                                     \
    extern "C" __global__ void dequantize_##Format##_##Out(                                     \
        Out *out, const Format::Stored *x, i64 len, const float *scales, i64 part) {            \
        Factors factors = {scales, part};                                                       \
        for_each(                                                                               \
            len, true,                                                                          \
            [&](i64 i) {                                                                        \
                Format::Stored stored[WIDE];                                                    \
                eight_stored<Format::Word>(stored, x + i);                                      \
                float v[WIDE];                                                                  \
                for (int j = 0; j < WIDE; j++) v[j] = Format::value(stored[j]);                 \
                factors.times_eight(v, i);                                                      \
                store<WIDE>(out + i, v);                                                        \
            },                                                                                  \
            [&](i64 i) { set(out[i], factors.times(Format::value(x[i]), i)); });                \
    }
#define DEFINE_BOTH(Format) DEFINE(Format, f32) DEFINE(Format, bf16)
DEFINE_BOTH(F32)
DEFINE_BOTH(F16)
DEFINE_BOTH(BF16)
DEFINE_BOTH(F8E4M3)
DEFINE_BOTH(F8E5M2)
#undef DEFINE

// Blocks.
#define DEFINE(Format, Out)                                                                     \
    extern "C" __global__ void dequantize_##Format##_##Out(Out *out, const u8 *x, i64 len,      \
                                                           const float *scales, i64 part) {     \
        Factors factors = {scales, part};                                                       \
        for_each(                                                                               \
            len, true,                                                                          \
            [&](i64 i) {                                                                        \
                float v[WIDE];                                                                  \
                const u8 *block = x + i / Format::VALUES * Format::BYTES;                       \
                Format::eight(v, block, (int)(i % Format::VALUES) / WIDE);                      \
                factors.times_eight(v, i);                                                      \
                store<WIDE>(out + i, v);                                                        \
            },                                                                                  \
            [](i64) {});                                                                        \
    }
DEFINE_BOTH(Q8_0)
DEFINE_BOTH(Q5_0)
DEFINE_BOTH(Q4_0)
DEFINE_BOTH(Q6_K)
DEFINE_BOTH(Q5_K)
DEFINE_BOTH(Q4_K)
#undef DEFINE
#undef DEFINE_BOTH
