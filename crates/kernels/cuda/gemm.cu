// Fully connected layers: out[rows][outputs] from x[rows][inputs] and w[outputs][inputs], all row-major.

#define GEMM_PARAMETERS(Left, Right)                                                              \
    const Left *x, const Right *w, void *out, int out_bf16, const float *bias, const float *gate, \
        int tokens_per_frame, int first_token, int activation, int add, int rows, int inputs, int outputs
#define GEMM_OUT \
    Straight<Finish> { {out, out_bf16, bias, gate, tokens_per_frame, first_token, activation, add, rows, outputs} }

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

#define GEMM_FINISH(name, T)                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        name(const T* sums, void* out, int out_bf16, const float* bias, const float* gate,         \
             int tokens_per_frame, int first_token, int activation, int add, int rows, int outputs) { \
        finish_sums(sums, GEMM_OUT.finish);                                                        \
    }

GEMM_FINISH(gemm_finish_f32, float)
GEMM_FINISH(gemm_finish_bf16, bf16)
