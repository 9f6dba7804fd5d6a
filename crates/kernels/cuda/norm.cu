// Norms, with what usually follows them.

// Rows of [.., dim] that share their values: row `token / tokens`, or row 0 when `tokens` is 0.
__device__ __forceinline__ const float *row_for(const float *values, i64 token, int tokens, int dim) {
    return tokens > 0 ? values + token / tokens * dim : values;
}

struct LayerNorm {
    // [dim], both or none.
    const float *weight, *bias;
    // [frames][dim], both or none: normed * (1 + scale) + shift.
    const float *shift, *scale;
    int shift_tokens, scale_tokens;
    int dim;
    float eps;
};

// What a layer norm makes of the values of the block's row.
template <int N, class In>
struct NormedRow {
    LayerNorm how;
    const float *shift = nullptr, *scale = nullptr;
    float mean, inverse;

    __device__ __forceinline__ NormedRow(const Part<N, In> &part, const LayerNorm &how) : how(how) {
        __shared__ float sums[33];
        const i64 token = blockIdx.x;
        const int dim = how.dim;
        float sum = 0.0f;
        part.values([&](float v) { sum += v; });
        mean = block_sum(sum, sums) / dim;
        sum = 0.0f;
        part.values([&](float v) { sum += (v - mean) * (v - mean); });
        inverse = 1.0f / sqrtf(block_sum(sum, sums) / dim + how.eps);
        if (how.shift) {
            shift = row_for(how.shift, token, how.shift_tokens, dim);
            scale = row_for(how.scale, token, how.scale_tokens, dim);
        }
    }

    // In place, of those from column `at` on.
    __device__ __forceinline__ void make(float *y, int at) const {
        float a[N], b[N];
#pragma unroll
        for (int i = 0; i < N; i++) y[i] = (y[i] - mean) * inverse;
        if (how.weight) {
            load<N>(a, how.weight + at);
            load<N>(b, how.bias + at);
#pragma unroll
            for (int i = 0; i < N; i++) y[i] = fmaf(y[i], a[i], b[i]);
        }
        if (shift) {
            load<N>(a, scale + at);
            load<N>(b, shift + at);
#pragma unroll
            for (int i = 0; i < N; i++) y[i] = fmaf(y[i], 1.0f + a[i], b[i]);
        }
    }
};

template <int N, class In, class Out>
__device__ __forceinline__ void layer_norm(Out *out, const In *x, const LayerNorm &how) {
    const i64 first = (i64)blockIdx.x * how.dim;
    Part<N, In> part(x + first, how.dim, threadIdx.x, blockDim.x);
    const NormedRow<N, In> row(part, how);
    part.change_packs([&](float *v, int at, bool) {
        row.make(v, at);
        store<N>(out + first + at, v);
    });
}

// The same as codes, of what Through would have held of the result.
template <class Through, int N, class In>
__device__ __forceinline__ void layer_norm_codes(e4m3 *codes, float *factors, const In *x, const LayerNorm &how) {
    Part<N, In> part(x + (i64)blockIdx.x * how.dim, how.dim, threadIdx.x, blockDim.x);
    const NormedRow<N, In> row(part, how);
    row_to_codes<Through>(codes, factors, part, how.dim, [&](float *v, int at) { row.make(v, at); });
}

// One block a row.
#define DEFINE(In, Out)                                                                         \
    extern "C" __global__ void layer_norm_##In##_##Out(                                         \
        Out *out, const In *x, const float *weight, const float *bias, const float *shift,      \
        int shift_tokens, const float *scale, int scale_tokens, int dim, float eps) {           \
        LayerNorm how = {weight, bias, shift, scale, shift_tokens, scale_tokens, dim, eps};     \
        bool whole = dim % WIDE == 0 && aligned(out) && aligned(x) && aligned(weight) &&        \
                     aligned(bias) && aligned(shift) && aligned(scale);                         \
        if (whole) layer_norm<WIDE>(out, x, how);                                               \
        else layer_norm<1>(out, x, how);                                                        \
    }                                                                                           \
    extern "C" __global__ void layer_norm_codes_##In##_##Out(                                   \
        e4m3 *codes, float *factors, const In *x, const float *weight, const float *bias,       \
        const float *shift, int shift_tokens, const float *scale, int scale_tokens, int dim,    \
        float eps) {                                                                            \
        LayerNorm how = {weight, bias, shift, scale, shift_tokens, scale_tokens, dim, eps};     \
        bool whole = dim % WIDE == 0 && aligned(codes) && aligned(x) && aligned(weight) &&      \
                     aligned(bias) && aligned(shift) && aligned(scale);                         \
        if (whole) layer_norm_codes<Out, WIDE>(codes, factors, x, how);                         \
        else layer_norm_codes<Out, 1>(codes, factors, x, how);                                  \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

// x / sqrt(mean(x^2) + eps) * weight, unless there is no weight; then the pairs of neighbours of each
// head are turned by the token's angles, if there are any: those of `tokens` tokens, again and again.
template <int N, class T>
__device__ __forceinline__ void rms_norm_rope(T *x, const float *weight, const float *cosines,
                                              const float *sines, int tokens, int dim, int head_dim,
                                              float eps) {
    __shared__ float sums[33];
    i64 token = blockIdx.x;
    T *row = x + token * dim;
    Part<N, T> part(row, dim, threadIdx.x, blockDim.x);
    float inverse = 1.0f;
    if (weight) {
        float sum = 0.0f;
        part.values([&](float v) { sum += v * v; });
        inverse = 1.0f / sqrtf(block_sum(sum, sums) / dim + eps);
    }
    i64 angles = cosines ? token % tokens * (head_dim / 2) : 0;
    part.packs_of_row([&](const float *v, int at) {
        float y[N];
#pragma unroll
        for (int i = 0; i < N; i++) y[i] = v[i];
        if (weight) {
            float w[N];
            load<N>(w, weight + at);
#pragma unroll
            for (int i = 0; i < N; i++) y[i] = y[i] * inverse * w[i];
        }
        if constexpr (N > 1) {
            if (cosines) {
                i64 angle = angles + at % head_dim / 2;
                float c[N / 2], s[N / 2];
                load<N / 2>(c, cosines + angle);
                load<N / 2>(s, sines + angle);
#pragma unroll
                for (int i = 0; i < N / 2; i++) {
                    float a = y[2 * i], b = y[2 * i + 1];
                    y[2 * i] = a * c[i] - b * s[i];
                    y[2 * i + 1] = a * s[i] + b * c[i];
                }
            }
        }
        store<N>(row + at, y);
    });
}

// One block a row.
#define DEFINE(T)                                                                               \
    extern "C" __global__ void rms_norm_rope_##T(T *x, const float *weight, const float *cosines, \
                                                 const float *sines, int tokens, int dim,       \
                                                 int head_dim, float eps) {                     \
        bool whole = dim % WIDE == 0 && head_dim % WIDE == 0 && aligned(x) && aligned(weight) && \
                     aligned(cosines) && aligned(sines);                                        \
        if (whole)                                                                              \
            rms_norm_rope<WIDE>(x, weight, cosines, sines, tokens, dim, head_dim, eps);         \
        else if (cosines)                                                                       \
            rms_norm_rope<2>(x, weight, cosines, sines, tokens, dim, head_dim, eps);            \
        else                                                                                    \
            rms_norm_rope<1>(x, weight, cosines, sines, tokens, dim, head_dim, eps);            \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE

// x / max(|x|, 1e-12) * sqrt(dim) * gamma + bias, then SiLU if wanted. A group of `lanes` lanes, a
// power of two, has a row; `out` may be `x`.
template <int N, class In, class Out>
__device__ __forceinline__ void channel_norm(Out *out, const In *x, const float *gamma,
                                             const float *bias, i64 rows, int dim, int lanes,
                                             int silu) {
    i64 row = thread_of_grid() / lanes;
    // All lanes of a warp take part in the sum.
    bool there = row < rows;
    Part<N, In> part(x + (there ? row : 0) * dim, there ? dim : 0, threadIdx.x % lanes, lanes);
    float sum = 0.0f;
    part.values([&](float v) { sum += v * v; });
    float norm = sqrtf(group_sum(sum, lanes));
    // A maximum would turn a NaN into the bound.
    float inverse = sqrtf((float)dim) / (norm < 1e-12f ? 1e-12f : norm);
    part.packs_of_row([&](const float *v, int at) {
        float y[N], a[N];
        load<N>(a, gamma + at);
#pragma unroll
        for (int i = 0; i < N; i++) y[i] = v[i] * inverse * a[i];
        if (bias) {
            load<N>(a, bias + at);
#pragma unroll
            for (int i = 0; i < N; i++) y[i] += a[i];
        }
        if (silu) {
#pragma unroll
            for (int i = 0; i < N; i++) y[i] = times_sigmoid(y[i], y[i]);
        }
        store<N>(out + row * dim + at, y);
    });
}

#define DEFINE(In, Out)                                                                         \
    extern "C" __global__ void channel_norm_##In##_##Out(                                       \
        Out *out, const In *x, const float *gamma, const float *bias, i64 rows, int dim,        \
        int lanes, int silu) {                                                                  \
        bool whole = dim % WIDE == 0 && aligned(out) && aligned(x) && aligned(gamma) &&         \
                     aligned(bias);                                                             \
        if (whole) channel_norm<WIDE>(out, x, gamma, bias, rows, dim, lanes, silu);             \
        else channel_norm<1>(out, x, gamma, bias, rows, dim, lanes, silu);                      \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE
