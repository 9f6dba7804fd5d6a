// Value by value.

// x += gate * y; the gate is [frames][dim] by `token / tokens`, or one row when `tokens` is 0, or
// missing for 1. One block a row.
template <int N, class X, class Y>
__device__ __forceinline__ void gate_residual(X *x, const Y *y, const float *gate, int tokens,
                                              int dim) {
    i64 token = blockIdx.x;
    x += token * dim;
    y += token * dim;
    if (gate && tokens > 0) gate += token / tokens * dim;
    for (int at = threadIdx.x * N; at < dim; at += blockDim.x * N) {
        float a[N], b[N], g[N];
        load<N>(a, x + at);
        load<N>(b, y + at);
        if (gate) load<N>(g, gate + at);
#pragma unroll
        for (int i = 0; i < N; i++) a[i] = gate ? fmaf(g[i], b[i], a[i]) : a[i] + b[i];
        store<N>(x + at, a);
    }
}

#define DEFINE(X, Y)                                                                         \
    extern "C" __global__ void gate_residual_##X##_##Y(X *x, const Y *y, const float *gate,  \
                                                       int tokens, int dim) {                \
        bool whole = dim % WIDE == 0 && aligned(x) && aligned(y) && aligned(gate);           \
        if (whole) gate_residual<WIDE>(x, y, gate, tokens, dim);                             \
        else gate_residual<1>(x, y, gate, tokens, dim);                                      \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

// Changes every value of x.
template <class T, class Change>
__device__ __forceinline__ void change(T *x, i64 len, Change to) {
    for_each(
        len, aligned(x),
        [&](i64 i) {
            float v[WIDE];
            load<WIDE>(v, x + i);
#pragma unroll
            for (int j = 0; j < WIDE; j++) v[j] = to(v[j]);
            store<WIDE>(x + i, v);
        },
        [&](i64 i) { set(x[i], to(to_f32(x[i]))); });
}

#define DEFINE(T)                                                                         \
    extern "C" __global__ void activate_##T(T *x, i64 len, int activation) {              \
        change(x, len, [&](float v) { return activate(v, activation); });                 \
    }                                                                                     \
    /* What is no number stays so. */                                                     \
    extern "C" __global__ void clamp_##T(T *x, i64 len, float least, float most) {        \
        change(x, len, [&](float v) { return v < least ? least : v > most ? most : v; }); \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE

// Negative values times the slope of their channel.
#define DEFINE(T)                                                                            \
    extern "C" __global__ void prelu_##T(T *x, i64 len, const float *slopes, int channels) { \
        for_each(                                                                            \
            len, aligned(x),                                                                 \
            [&](i64 i) {                                                                     \
                float v[WIDE];                                                               \
                load<WIDE>(v, x + i);                                                        \
                int channel = (int)(i % channels);                                           \
                for (int j = 0; j < WIDE; j++) {                                             \
                    if (v[j] < 0.0f) v[j] *= slopes[channel];                                \
                    if (++channel == channels) channel = 0;                                  \
                }                                                                            \
                store<WIDE>(x + i, v);                                                       \
            },                                                                               \
            [&](i64 i) {                                                                     \
                float v = to_f32(x[i]);                                                      \
                if (v < 0.0f) set(x[i], v * slopes[i % channels]);                           \
            });                                                                              \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE

// x *= y.
#define DEFINE(X, Y)                                                                \
    extern "C" __global__ void multiply_##X##_##Y(X *x, const Y *y, i64 len) {      \
        for_each(                                                                   \
            len, aligned(x) && aligned(y),                                          \
            [&](i64 i) {                                                            \
                float a[WIDE], b[WIDE];                                             \
                load<WIDE>(a, x + i);                                               \
                load<WIDE>(b, y + i);                                               \
                for (int j = 0; j < WIDE; j++) a[j] *= b[j];                        \
                store<WIDE>(x + i, a);                                              \
            },                                                                      \
            [&](i64 i) { set(x[i], to_f32(x[i]) * to_f32(y[i])); });                \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

// out = the sum of factor * x over up to four arrays, of which those behind the last are null; `out`
// may be one of them.
#define TERMS 4

template <int N, class In, class Out>
__device__ __forceinline__ void combine(Out *out, const In *const *x, const float *factors, i64 at) {
    float sum[N];
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] = 0.0f;
#pragma unroll
    for (int k = 0; k < TERMS; k++)
        if (x[k]) {
            float v[N];
            load<N>(v, x[k] + at);
#pragma unroll
            for (int i = 0; i < N; i++) sum[i] = fmaf(factors[k], v[i], sum[i]);
        }
    store<N>(out + at, sum);
}

#define DEFINE(In, Out)                                                                       \
    extern "C" __global__ void combine_##In##_##Out(                                          \
        Out *out, i64 len, const In *x0, float f0, const In *x1, float f1, const In *x2,      \
        float f2, const In *x3, float f3) {                                                   \
        const In *x[TERMS] = {x0, x1, x2, x3};                                                \
        const float factors[TERMS] = {f0, f1, f2, f3};                                        \
        for_each(                                                                             \
            len, aligned(out) && aligned(x0) && aligned(x1) && aligned(x2) && aligned(x3),    \
            [&](i64 i) { combine<WIDE>(out, x, factors, i); },                                \
            [&](i64 i) { combine<1>(out, x, factors, i); });                                  \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

// parts[0..2] of each block become its share of the sums of |x - y| and of |y|.
#define DEFINE(T)                                                                          \
    extern "C" __global__ void change_##T(float *parts, const T *x, const T *y, i64 len) { \
        __shared__ float shared[33];                                                       \
        float change = 0.0f, size = 0.0f;                                                  \
        for (i64 i = thread_of_grid(); i < len; i += threads_of_grid()) {                  \
            float b = to_f32(y[i]);                                                        \
            change += fabsf(to_f32(x[i]) - b);                                             \
            size += fabsf(b);                                                              \
        }                                                                                  \
        change = block_sum(change, shared);                                                \
        size = block_sum(size, shared);                                                    \
        if (threadIdx.x == 0) {                                                            \
            parts[2 * blockIdx.x] = change;                                                \
            parts[2 * blockIdx.x + 1] = size;                                              \
        }                                                                                  \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE
