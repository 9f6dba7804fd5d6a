// Fully connected layers in 8-bit floats: x[rows][inputs] and w[outputs][inputs] are e4m3, and each row of
// either has a factor. Sums are f32, and products of two e4m3 are exact in it.

template <int N, class T>
__device__ __forceinline__ void quantize_row(e4m3* codes, float* factors, const T* x, int dim) {
    Part<N, T> part(x + (i64)blockIdx.x * dim, dim, threadIdx.x, blockDim.x);
    row_to_codes<T>(codes, factors, part, dim, [](float*, int) {});
}

// One block a row.
#define QUANTIZE(T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(CODE_THREADS)                                       \
        quantize_rows_##T(e4m3* codes, float* factors, const T* x, int dim) {                        \
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

// A sum of codes by the factors of its row and its column. Rounded here, and never fused with what is added to it, so
// that whatever comes next makes the same of it.
__device__ __forceinline__ float by_factors(float sum, float row, float column) {
    return __fmul_rn(sum, __fmul_rn(row, column));
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
            for (int i = 0; i < 4; ++i) sums[n][i] = by_factors(sums[n][i], factor, factors[i]);
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

template <class Through, int N>
__device__ __forceinline__ void finish_row(e4m3* codes, float* factors, const bf16* sums, const float* row_factors,
                                           const float* column_factors, const float* bias, int activation, int dim) {
    const float factor = row_factors[blockIdx.x];
    Part<N, bf16> part(sums + (i64)blockIdx.x * dim, dim, threadIdx.x, blockDim.x);
    row_to_codes<Through>(codes, factors, part, dim, [&](float* v, int at) {
        float more[N];
        load<N>(more, column_factors + at);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = by_factors(v[i], factor, more[i]);
        if (bias != nullptr) {
            load<N>(more, bias + at);
#pragma unroll
            for (int i = 0; i < N; ++i) v[i] += more[i];
        }
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = activate(v[i], activation);
    });
}

// The same of a layer whose result is wanted as codes, of what T would have held of it. One block a row.
#define FINISH_CODES(T)                                                                              \
    extern "C" __global__ void __launch_bounds__(CODE_THREADS) fp8_finish_codes_##T(                 \
        e4m3* codes, float* factors, const bf16* sums, const float* row_factors,                     \
        const float* column_factors, const float* bias, int activation, int dim) {                   \
        const bool whole = dim % WIDE == 0 && aligned(sums) && aligned(codes) &&                     \
                           aligned(column_factors) && aligned(bias);                                 \
        if (whole)                                                                                   \
            finish_row<T, WIDE>(codes, factors, sums, row_factors, column_factors, bias, activation, dim); \
        else                                                                                         \
            finish_row<T, 1>(codes, factors, sums, row_factors, column_factors, bias, activation, dim);    \
    }
FOR_EACH_ELEMENT(FINISH_CODES)
