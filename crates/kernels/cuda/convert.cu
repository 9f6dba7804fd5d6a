// Between f32 and bf16, and a look for what is not finite.

template <class In, class Out>
__device__ void convert(Out *out, const In *x, i64 len) {
    i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    i64 threads = (i64)gridDim.x * blockDim.x;
    i64 packs = aligned(out) && aligned(x) ? len / WIDE : 0;
    for (i64 i = thread; i < packs; i += threads) {
        float v[WIDE];
        load<WIDE>(v, x + i * WIDE);
        store<WIDE>(out + i * WIDE, v);
    }
    for (i64 i = packs * WIDE + thread; i < len; i += threads) set(out[i], to_f32(x[i]));
}

extern "C" __global__ void convert_f32_bf16(bf16 *out, const float *x, i64 len) {
    convert(out, x, len);
}
extern "C" __global__ void convert_bf16_f32(float *out, const bf16 *x, i64 len) {
    convert(out, x, len);
}

// `flag` becomes 1 when a value is infinite or no number; nobody else writes it meanwhile.
template <class T>
__device__ void not_finite(float *flag, const T *x, i64 len) {
    i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    i64 threads = (i64)gridDim.x * blockDim.x;
    i64 packs = aligned(x) ? len / WIDE : 0;
    bool found = false;
    for (i64 i = thread; i < packs; i += threads) {
        float v[WIDE];
        load<WIDE>(v, x + i * WIDE);
#pragma unroll
        for (int j = 0; j < WIDE; j++) found |= !(fabsf(v[j]) <= 3.402823466e38f);
    }
    for (i64 i = packs * WIDE + thread; i < len; i += threads)
        found |= !(fabsf(to_f32(x[i])) <= 3.402823466e38f);
    if (found) *flag = 1.0f;
}

extern "C" __global__ void not_finite_f32(float *flag, const float *x, i64 len) {
    not_finite(flag, x, len);
}
extern "C" __global__ void not_finite_bf16(float *flag, const bf16 *x, i64 len) {
    not_finite(flag, x, len);
}
