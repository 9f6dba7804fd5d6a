// Between f32 and bf16.

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
