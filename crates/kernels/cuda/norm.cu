// Norms, with what usually follows them. Rows are read once where they fit in registers: each thread
// keeps up to KEPT packs of N values, and what is beyond them is read again.

#define KEPT 4

// The part of a row that a thread has: packs `threadIdx.x + k * blockDim.x`.
template <int N, class T>
struct Part {
    const T *row;
    int first, step, packs;
    float kept[KEPT][N];

    __device__ __forceinline__ Part(const T *row, int dim, int first, int step)
        : row(row), first(first), step(step), packs(dim / N) {
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (first + k * step < packs) load<N>(kept[k], row + (i64)(first + k * step) * N);
    }

    // Calls `body(value)` for each value.
    template <class Body>
    __device__ __forceinline__ void values(Body body) const {
        packs_of_row([&](const float *v, int) {
#pragma unroll
            for (int i = 0; i < N; i++) body(v[i]);
        });
    }

    // Calls `body(values, start)` for each pack, with the column of its first value.
    template <class Body>
    __device__ __forceinline__ void packs_of_row(Body body) const {
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (first + k * step < packs) body(kept[k], (first + k * step) * N);
        for (int p = first + KEPT * step; p < packs; p += step) {
            float v[N];
            load<N>(v, row + (i64)p * N);
            body(v, p * N);
        }
    }
};

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

template <int N, class In, class Out>
__device__ __forceinline__ void layer_norm(Out *out, const In *x, const LayerNorm &how) {
    __shared__ float sums[33];
    i64 token = blockIdx.x;
    int dim = how.dim;
    Part<N, In> part(x + token * dim, dim, threadIdx.x, blockDim.x);
    float sum = 0.0f;
    part.values([&](float v) { sum += v; });
    float mean = block_sum(sum, sums) / dim;
    sum = 0.0f;
    part.values([&](float v) { sum += (v - mean) * (v - mean); });
    float inverse = 1.0f / sqrtf(block_sum(sum, sums) / dim + how.eps);
    const float *shift = nullptr, *scale = nullptr;
    if (how.shift) {
        shift = row_for(how.shift, token, how.shift_tokens, dim);
        scale = row_for(how.scale, token, how.scale_tokens, dim);
    }
    Out *to = out + token * dim;
    part.packs_of_row([&](const float *v, int at) {
        float y[N], a[N], b[N];
#pragma unroll
        for (int i = 0; i < N; i++) y[i] = (v[i] - mean) * inverse;
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
        store<N>(to + at, y);
    });
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
