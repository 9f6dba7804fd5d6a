// Rows of activations that are read once where they fit in registers, and rows that become e4m3, each with a
// factor: the way in which products in 8 bits are given them.

// Packs of N values that a thread keeps at most; what is beyond them is read again.
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

    // As `packs_of_row`, and what `body(values, start)` makes of a pack that is kept stays in its place;
    // `body` is told whether it is.
    template <class Body>
    __device__ __forceinline__ void change_packs(Body body) {
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (first + k * step < packs) body(kept[k], (first + k * step) * N, true);
        for (int p = first + KEPT * step; p < packs; p += step) {
            float v[N];
            load<N>(v, row + (i64)p * N);
            body(v, p * N, false);
        }
    }
};

// Threads of a block that makes codes of a row, at most.
#define CODE_THREADS 512

// Over a block of whole warps; every thread gets the result. `part` is 32 floats of shared memory.
__device__ __forceinline__ float block_max(float v, float *part) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, step));
    if (lane == 0) part[warp] = v;
    __syncthreads();
    v = lane < warps ? part[lane] : 0.0f;
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, step));
    return v;
}

// The block's row as e4m3 by a factor that brings the largest of its values to 448. The values are what
// `make(values, start)` makes of those of `part`, a pack at a time, as Through holds them. A row of nearly nothing
// has no inverse and becomes zeros; a NaN stays one in any case.
template <class Through, int N, class T, class Make>
__device__ __forceinline__ void row_to_codes(e4m3 *codes, float *factors, Part<N, T> &part, int dim, Make make) {
    __shared__ float warps[32];
    const auto made = [&](float *v, int at) {
        make(v, at);
#pragma unroll
        for (int i = 0; i < N; i++) {
            Through held;
            set(held, v[i]);
            v[i] = to_f32(held);
        }
    };
    float largest = 0.0f;
    part.change_packs([&](float *v, int at, bool) {
        made(v, at);
#pragma unroll
        for (int i = 0; i < N; i++) largest = fmaxf(largest, fabsf(v[i]));
    });
    largest = block_max(largest, warps);
    const float inverse = largest > 1e-30f ? 448.0f / largest : 0.0f;
    if (threadIdx.x == 0) factors[blockIdx.x] = largest / 448.0f;
    codes += (i64)blockIdx.x * dim;
    part.change_packs([&](float *v, int at, bool kept) {
        if (!kept) made(v, at);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] *= inverse;
        store<N>(codes + at, v);
    });
}

