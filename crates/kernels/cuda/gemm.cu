// Fully connected layers: out[rows][outputs] from x[rows][inputs] and w[outputs][inputs], all row-major.

// The product's rows are those of the result.
struct Straight {
    Finish finish;

    __device__ int rows() const { return finish.rows; }
    __device__ int columns() const { return finish.columns; }
    __device__ i64 place(int row) const { return row; }
};

#define GEMM_PARAMETERS(Left, Right)                                                              \
    const Left *x, const Right *w, void *out, int out_bf16, const float *bias, const float *gate, \
        int tokens_per_frame, int first_token, int activation, int add, int rows, int inputs, int outputs
#define GEMM_OUT \
    Straight { {out, out_bf16, bias, gate, tokens_per_frame, first_token, activation, add, rows, outputs} }

// Rows of a multiple of 8 values that begin at multiples of 16 bytes.
#define GEMM_TENSOR(name, ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS)                               \
    extern "C" __global__ void __launch_bounds__(128) name(GEMM_PARAMETERS(bf16, bf16)) {       \
        DYNAMIC_SHARED(shared); \
        typedef TensorTile<ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS> Tile;                        \
        Tile::run(Plain<bf16>{x, rows, inputs}, Plain<bf16>{w, outputs, inputs}, inputs,        \
                  (bf16*)shared, GEMM_OUT);                                           \
    }

GEMM_TENSOR(gemm_128x128, 128, 128, 64, 64)
GEMM_TENSOR(gemm_64x64, 64, 64, 32, 32)

// Any shapes and types.
#define GEMM_PLAIN(name, Left, Right)                                                           \
    extern "C" __global__ void __launch_bounds__(256) name(GEMM_PARAMETERS(Left, Right)) {      \
        plain_tile(Plain<Left>{x, rows, inputs}, Plain<Right>{w, outputs, inputs}, inputs, GEMM_OUT); \
    }

GEMM_PLAIN(gemm_f32_f32, float, float)
GEMM_PLAIN(gemm_f32_bf16, float, bf16)
GEMM_PLAIN(gemm_bf16_f32, bf16, float)
GEMM_PLAIN(gemm_bf16_bf16, bf16, bf16)

// What is left of a layer after a product by a vendor's library: from sums[rows][outputs] by bias,
// activation and gate. `sums` may be `out` itself.
template <class T>
__device__ void finish_sums(const T* sums, const Finish& finish) {
    const int quads = ceil_div(finish.columns, 4);
    const i64 step = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (i64)finish.rows * quads; i += step) {
        const int row[1] = {(int)(i / quads)}, column[1] = {(int)(i % quads) * 4};
        const i64 to[1] = {row[0]};
        float values[1][4];
        Finish::read(values[0], sums + to[0] * finish.columns + column[0], finish.columns % 4 == 0,
                     finish.columns - column[0]);
        finish.quads(row, to, column, values);
    }
}

#define GEMM_FINISH(name, T)                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        name(const T* sums, void* out, int out_bf16, const float* bias, const float* gate,         \
             int tokens_per_frame, int first_token, int activation, int add, int rows, int outputs) { \
        finish_sums(sums, GEMM_OUT.finish);                                                        \
    }

GEMM_FINISH(gemm_finish_f32, float)
GEMM_FINISH(gemm_finish_bf16, bf16)
