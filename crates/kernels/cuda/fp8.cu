// Fully connected layers in 8-bit floats: x[rows][inputs] and w[outputs][inputs] are e4m3, and each row of
// either has a factor. Sums are f32, and products of two e4m3 are exact in it.

// Over a block of whole warps; every thread gets the result. `part` is 32 floats of shared memory.
__device__ __forceinline__ float block_max(float v, float* part) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, step));
    if (lane == 0) part[warp] = v;
    __syncthreads();
    v = lane < warps ? part[lane] : 0.0f;
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, step));
    return v;
}

// A row's values by a factor that brings the largest of them to 448. The row is read twice, the second time
// from the cache. A row of nearly nothing has no inverse and becomes zeros; a NaN stays one in any case.
template <int N, class T>
__device__ __forceinline__ void quantize_row(e4m3* codes, float* factors, const T* x, int dim) {
    __shared__ float part[32];
    const i64 first = (i64)blockIdx.x * dim;
    float largest = 0.0f;
    for (int at = threadIdx.x * N; at < dim; at += blockDim.x * N) {
        float v[N];
        load<N>(v, x + first + at);
#pragma unroll
        for (int i = 0; i < N; ++i) largest = fmaxf(largest, fabsf(v[i]));
    }
    largest = block_max(largest, part);
    const float inverse = largest > 1e-30f ? 448.0f / largest : 0.0f;
    if (threadIdx.x == 0) factors[blockIdx.x] = largest / 448.0f;
    for (int at = threadIdx.x * N; at < dim; at += blockDim.x * N) {
        float v[N];
        load<N>(v, x + first + at);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] *= inverse;
        store<N>(codes + first + at, v);
    }
}

// One block a row.
#define QUANTIZE(T)                                                                                  \
    extern "C" __global__ void quantize_rows_##T(e4m3* codes, float* factors, const T* x, int dim) { \
        const bool whole = dim % WIDE == 0 && aligned(x) && aligned(codes);                          \
        if (whole) quantize_row<WIDE>(codes, factors, x, dim);                                       \
        else quantize_row<1>(codes, factors, x, dim);                                                \
    }
FOR_EACH_ELEMENT(QUANTIZE)

// Two neighbours of a row, which is how a lane has them where it would have a bf16.
struct e4m3x2 {
    u16 bits;
};

__device__ __forceinline__ unsigned two_as_bf16(unsigned codes) {
    return pack_bf16(to_f32(e4m3{(u8)codes}), to_f32(e4m3{(u8)(codes >> 8)}));
}

// d += a b, for e4m3 a (16 x 32, rows) and b (32 x 8, columns), by the whole warp, as two products of bf16,
// which holds every e4m3. Lane 4 r + c has columns 4 c .. 4 c + 3 of a row where it has 2 c and 2 c + 1 of
// bf16; a sum does not mind in which order, so the first two of each four are one fragment's left half and the
// others its right half.
__device__ __forceinline__ void mma_e4m3_by_bf16(float* d, const unsigned* a, const unsigned* b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const unsigned *left = a + 2 * half, right = b[half];
        const unsigned lefts[4] = {two_as_bf16(left[0]), two_as_bf16(left[1]), two_as_bf16(left[0] >> 16),
                                   two_as_bf16(left[1] >> 16)};
        const unsigned rights[2] = {two_as_bf16(right), two_as_bf16(right >> 16)};
        mma_m16n8k16_bf16(d, lefts, rights);
    }
}

// sums += left right. Tensor cores add what they multiply at once in fewer bits than f32 has, and would add a
// long sum so: here only the 32 products of one instruction are.
__device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&left)[4], const unsigned* right, e4m3x2) {
    float here[4] = {};
#ifdef MMA_E4M3
    mma_m16n8k32_e4m3(here, left, right);
#else
    mma_e4m3_by_bf16(here, left, right);
#endif
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += here[i];
}

// Sums of codes by the factors of their row and column, then as any others.
struct ScaledFinish : Finish {
    const float *row_factors, *column_factors;

    template <int N>
    __device__ __forceinline__ void quads(const int (&row)[N], const i64 (&to)[N], const int (&column)[N], float (&sums)[N][4]) const {
#pragma unroll
        for (int n = 0; n < N; ++n) {
            if (row[n] >= rows || column[n] >= columns) continue;
            const float factor = row_factors[row[n]];
            float factors[4];
            read(factors, column_factors + column[n], columns % 4 == 0, columns - column[n]);
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[n][i] *= factor * factors[i];
        }
        Finish::quads(row, to, column, sums);
    }
};

#define FP8_PARAMETERS                                                                                \
    const e4m3 *x, const e4m3 *w, const float *row_factors, const float *column_factors, void *out,   \
        int out_bf16, const float *bias, const float *gate, int tokens_per_frame, int first_token,    \
        int activation, int add, int rows, int inputs, int outputs
#define FP8_FINISH                                                                                    \
    ScaledFinish {                                                                                    \
        {out, out_bf16, bias, gate, tokens_per_frame, first_token, activation, add, rows, outputs},   \
            row_factors, column_factors                                                               \
    }

// Rows of a multiple of 16 values that begin at multiples of 16 bytes.
#define FP8_TENSOR(name, ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS)                                      \
    extern "C" __global__ void __launch_bounds__(128) name(FP8_PARAMETERS) {                          \
        DYNAMIC_SHARED(shared);                                                                       \
        typedef TensorTile<ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS, e4m3x2> Tile;                      \
        const Plain<e4m3x2> left{(const e4m3x2*)x, rows, inputs / 2};                                 \
        const Plain<e4m3x2> right{(const e4m3x2*)w, outputs, inputs / 2};                             \
        Tile::run(left, right, inputs / 2, (e4m3x2*)shared, Straight<ScaledFinish>{FP8_FINISH});      \
    }

// Larger tiles have no registers left for the sums of one instruction.
FP8_TENSOR(fp8_128x64, 128, 64, 64, 32)
FP8_TENSOR(fp8_64x64, 64, 64, 32, 32)

// Any shape.
extern "C" __global__ void __launch_bounds__(256) fp8_plain(FP8_PARAMETERS) {
    plain_tile(Plain<e4m3>{x, rows, inputs}, Plain<e4m3>{w, outputs, inputs}, inputs,
               Straight<ScaledFinish>{FP8_FINISH});
}

// A gate by way of a product's own factors: gate * (sum * factor + bias) of columns is what these of them give.
extern "C" __global__ void fp8_fold_gate(float* folded, const float* factors, const float* bias, const float* gate,
                                         int outputs) {
    for (i64 i = thread_of_grid(); i < outputs; i += threads_of_grid()) {
        folded[i] = factors[i] * gate[i];
        folded[outputs + i] = bias != nullptr ? bias[i] * gate[i] : 0.0f;
    }
}

// What is left of a layer after a product of the codes alone, by a vendor's library.
extern "C" __global__ void __launch_bounds__(256)
    fp8_finish(const bf16* sums, const float* row_factors, const float* column_factors, void* out, int out_bf16,
               const float* bias, const float* gate, int tokens_per_frame, int first_token, int activation,
               int add, int rows, int outputs) {
    finish_sums(sums, FP8_FINISH);
}
