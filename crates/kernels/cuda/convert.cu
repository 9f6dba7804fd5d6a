// Between f32 and bf16, and a look for what is not finite.

#define DEFINE(In, Out)                                                                      \
    extern "C" __global__ void convert_##In##_##Out(Out *out, const In *x, i64 len) {        \
        for_each(                                                                            \
            len, aligned(out) && aligned(x),                                                 \
            [&](i64 i) {                                                                     \
                float v[WIDE];                                                               \
                load<WIDE>(v, x + i);                                                        \
                store<WIDE>(out + i, v);                                                     \
            },                                                                               \
            [&](i64 i) { set(out[i], to_f32(x[i])); });                                      \
    }
DEFINE(f32, bf16)
DEFINE(bf16, f32)
#undef DEFINE

__device__ __forceinline__ bool infinite_or_nan(float v) { return !(fabsf(v) <= 3.402823466e38f); }

// `flag` becomes 1 when a value is infinite or no number; nobody else writes it meanwhile.
#define DEFINE(T)                                                                            \
    extern "C" __global__ void not_finite_##T(float *flag, const T *x, i64 len) {            \
        bool found = false;                                                                  \
        for_each(                                                                            \
            len, aligned(x),                                                                 \
            [&](i64 i) {                                                                     \
                float v[WIDE];                                                               \
                load<WIDE>(v, x + i);                                                        \
                for (int j = 0; j < WIDE; j++) found |= infinite_or_nan(v[j]);               \
            },                                                                               \
            [&](i64 i) { found |= infinite_or_nan(to_f32(x[i])); });                         \
        if (found) *flag = 1.0f;                                                             \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE
