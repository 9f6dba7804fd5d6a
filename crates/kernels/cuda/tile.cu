// Matrix products in tiles: out[row][column] = finish(sum over k of left[row][k] * right[column][k]).
// The left side is a plain matrix or the windows of a convolution; the right side is a plain matrix.
//
// Where a side comes from is a type with
//   Slot slot(row)             what does not change along a row,
//   Walk walk(k)               a place along the rows, with `advance(n)`,
//   const T* find(slot, walk)  where the value is, or null for a zero,
//   const T* base()            an address that may be read.

// A matrix [rows][depth], row-major.
template <class T>
struct Plain {
    const T* values;
    int rows, depth;

    struct Slot {
        const T* at;
    };
    struct Walk {
        int k;
        __device__ void advance(int n) { k += n; }
    };

    __device__ Slot slot(int row) const { return {row < rows ? values + (i64)row * depth : nullptr}; }
    __device__ Walk walk(int k) const { return {k}; }
    __device__ const T* find(const Slot& slot, const Walk& walk) const {
        return slot.at != nullptr && walk.k < depth ? slot.at + walk.k : nullptr;
    }
    __device__ const T* base() const { return values; }
};

// What becomes of the sums: out = act(sum + bias), or out += gate * (sum + bias).
struct Finish {
    void* out;  // [rows][columns], of bf16 or f32
    int out_bf16;
    const float* bias;  // [columns], or null
    const float* gate;  // [frames][columns], or null for 1
    int tokens_per_frame;  // that share a row of the gate; 0 when all do
    int first_token;  // the token of row 0
    int activation;
    int add;
    int rows, columns;

    // N times four values next to each other, from `columns[n]` on, of row `rows[n]` of the product, which
    // is row `to[n]` of `out`; what is outside is left out. All reads come before the first store, so that
    // none waits for another.
    template <int N>
    __device__ __forceinline__ void quads(const int (&row)[N], const i64 (&to)[N], const int (&column)[N], float (&sums)[N][4]) const {
        if (out_bf16) {
            quads_as<bf16>(row, to, column, sums);
        } else {
            quads_as<float>(row, to, column, sums);
        }
    }

    template <class T, int N>
    __device__ __forceinline__ void quads_as(const int (&row)[N], const i64 (&to)[N], const int (&column)[N], float (&sums)[N][4]) const {
        T* places[N];
        // How many of the four are inside. Where rows are whole fours, four or none.
        int inside[N];
        const bool whole = columns % 4 == 0;
        float old[N][4];
#pragma unroll
        for (int n = 0; n < N; ++n) {
            const int left = columns - column[n];
            inside[n] = row[n] >= rows || left < 0 ? 0 : left < 4 ? left : 4;
            places[n] = (T*)out + to[n] * columns + column[n];
            if (inside[n] == 0) continue;
            if (bias != nullptr) {
                float more[4];
                read(more, bias + column[n], whole, inside[n]);
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[n][i] += more[i];
            }
            if (add) read(old[n], places[n], whole, inside[n]);
        }
        if (activation != 0) {
#pragma unroll
            for (int n = 0; n < N; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[n][i] = activate(sums[n][i], activation);
            }
        }
        if (gate != nullptr) {
#pragma unroll
            for (int n = 0; n < N; ++n) {
                if (inside[n] == 0) continue;
                const int frame = tokens_per_frame > 0 ? (first_token + row[n]) / tokens_per_frame : 0;
                float factors[4];
                read(factors, gate + (i64)frame * columns + column[n], whole, inside[n]);
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[n][i] *= factors[i];
            }
        }
#pragma unroll
        for (int n = 0; n < N; ++n) {
            if (inside[n] == 0) continue;
            if (add) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[n][i] += old[n][i];
            }
            if (whole) {
                store<4>(places[n], sums[n]);
            } else {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    if (i < inside[n]) set(places[n][i], sums[n][i]);
                }
            }
        }
    }

    // Four values, or the first of them and zeros.
    template <class T>
    static __device__ __forceinline__ void read(float (&to)[4], const T* from, bool whole, int inside) {
        if (whole) {
            load<4>(to, from);
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) to[i] = i < inside ? to_f32(from[i]) : 0.0f;
        }
    }
};

// The product's rows are those of the result.
template <class F>
struct Straight {
    F finish;

    __device__ int rows() const { return finish.rows; }
    __device__ int columns() const { return finish.columns; }
    __device__ i64 place(int row) const { return row; }
};

// Which tile of `tiles_down` x `tiles_across` this block computes: groups of 16 rows of tiles, so that
// the blocks that run at one time share what they read.
struct TilePlace {
    int down, across;

    __device__ TilePlace(int tiles_down, int tiles_across) {
        const int group = blockIdx.x / (16 * tiles_across), within = blockIdx.x % (16 * tiles_across);
        const int first = group * 16, height = tiles_down - first < 16 ? tiles_down - first : 16;
        down = first + within % height;
        across = within / height;
    }
};

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// sums += left right, of a warp's fragments of 16 x 16 and 16 x 8 values.
__device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&left)[4], const unsigned* right, bf16) {
    mma_m16n8k16_bf16(sums, left, right);
}

// Products on the tensor cores, with sums in f32. A block of 128 threads computes ROWS x COLUMNS, a warp
// WARP_ROWS x WARP_COLUMNS of them. Stages of 32 units of 16 bits along k, a bf16 each or what else
// `multiply` takes, are copied ahead into shared memory. A line of a stage is 64 bytes, four pieces of 16;
// piece c of line r is kept at place c ^ (r / 2 % 4), so that eight lines' pieces at one k are in
// different banks.
template <int ROWS, int COLUMNS, int WARP_ROWS, int WARP_COLUMNS, class Unit = bf16>
struct TensorTile {
    static constexpr int THREADS = 128, DEPTH = 32, STAGES = 3;
    static constexpr int DOWN = WARP_ROWS / 16, ACROSS = WARP_COLUMNS / 8;
    static constexpr int STAGE_VALUES = (ROWS + COLUMNS) * DEPTH;
    static_assert((ROWS / WARP_ROWS) * (COLUMNS / WARP_COLUMNS) * 32 == THREADS, "four warps");
    static_assert(ROWS % 32 == 0 && WARP_COLUMNS % 16 == 0, "whole fragments");

    static __device__ int place(int line, int piece) { return line * DEPTH + (piece ^ (line / 2 % 4)) * 8; }

    template <int LINES, class Side>
    static __device__ void bring(const Side& side, const typename Side::Slot (&slots)[(LINES + 31) / 32],
                                 const typename Side::Walk& walk, Unit* stage) {
        const int line = threadIdx.x / 4, piece = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < (LINES + 31) / 32; ++i) {
            if (LINES % 32 == 0 || line + i * 32 < LINES) {
                const Unit* from = side.find(slots[i], walk);
                cp_async_16(stage + place(line + i * 32, piece), from != nullptr ? from : side.base(), from != nullptr ? 16 : 0);
            }
        }
    }

    template <class Left, class Out>
    static __device__ void run(const Left& left, const Plain<Unit>& right, int depth, Unit* shared, const Out& out) {
        const TilePlace tile(ceil_div(out.rows(), ROWS), ceil_div(out.columns(), COLUMNS));
        const int first_row = tile.down * ROWS, first_column = tile.across * COLUMNS;
        const int line = threadIdx.x / 4, warp = threadIdx.x / 32, lane = threadIdx.x % 32;

        typename Left::Slot left_slots[ROWS / 32];
        typename Plain<Unit>::Slot right_slots[(COLUMNS + 31) / 32];
#pragma unroll
        for (int i = 0; i < ROWS / 32; ++i) left_slots[i] = left.slot(first_row + line + i * 32);
#pragma unroll
        for (int i = 0; i < (COLUMNS + 31) / 32; ++i) right_slots[i] = right.slot(first_column + line + i * 32);
        typename Left::Walk left_walk = left.walk(threadIdx.x % 4 * 8);
        typename Plain<Unit>::Walk right_walk = right.walk(threadIdx.x % 4 * 8);
        auto bring_stage = [&](int stage) {
            Unit* to = shared + stage * STAGE_VALUES;
            bring<ROWS>(left, left_slots, left_walk, to);
            bring<COLUMNS>(right, right_slots, right_walk, to + ROWS * DEPTH);
            left_walk.advance(DEPTH);
            right_walk.advance(DEPTH);
        };

        float sums[DOWN][ACROSS][4] = {};
        const int warp_row = warp % (ROWS / WARP_ROWS) * WARP_ROWS;
        const int warp_column = warp / (ROWS / WARP_ROWS) * WARP_COLUMNS;
        const int steps = ceil_div(depth, DEPTH);
#pragma unroll
        for (int i = 0; i < STAGES - 1; ++i) {
            if (i < steps) bring_stage(i);
            cp_async_commit();
        }
        int stage = 0;
        for (int step = 0; step < steps; ++step) {
            cp_async_wait<STAGES - 2>();
            // This stage is there for all, and all are done with the one before, which is filled next.
            __syncthreads();
            if (step + STAGES - 1 < steps) bring_stage(stage == 0 ? STAGES - 1 : stage - 1);
            cp_async_commit();
            const Unit* lefts = shared + stage * STAGE_VALUES;
            const Unit* rights = lefts + ROWS * DEPTH;
#pragma unroll
            for (int k = 0; k < DEPTH / 8; k += 2) {
                unsigned a[DOWN][4], b[ACROSS / 2][4];
#pragma unroll
                for (int i = 0; i < DOWN; ++i) {
                    ldmatrix_x4(a[i], lefts + place(warp_row + i * 16 + lane % 16, k + lane / 16));
                }
#pragma unroll
                for (int j = 0; j < ACROSS / 2; ++j) {
                    const int column = warp_column + j * 16 + lane / 16 * 8 + lane % 8;
                    ldmatrix_x4(b[j], rights + place(column, k + lane / 8 % 2));
                }
#pragma unroll
                for (int i = 0; i < DOWN; ++i) {
#pragma unroll
                    for (int j = 0; j < ACROSS; ++j) {
                        multiply(sums[i][j], a[i], &b[j / 2][j % 2 * 2], Unit());
                    }
                }
            }
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }

        finish(sums, (float*)shared, first_row, first_column, warp_row, warp_column, out);
    }

    // Brings sums to where they belong by way of shared memory, 16 rows of each warp at a time: there a
    // warp takes them in whole lines, and the code is short.
    template <class Out>
    static __device__ void finish(const float (&sums)[DOWN][ACROSS][4], float* shared, int first_row, int first_column,
                                  int warp_row, int warp_column, const Out& out) {
        // Eight more, so that the rows of a fragment are in different banks.
        constexpr int LINE = COLUMNS + 8, LINES = ROWS / WARP_ROWS * 16, QUADS = COLUMNS / 4, BATCH = 2;
        static_assert(LINES * LINE * 4 <= STAGES * STAGE_VALUES * 2, "the stages' memory is enough");
        static_assert(LINES * QUADS % (THREADS * BATCH) == 0, "the same for each thread");
        const int lane = threadIdx.x % 32;
        float* mine = shared + (warp_row / WARP_ROWS * 16 + lane / 4) * LINE + warp_column + lane % 4 * 2;
#pragma unroll 1
        for (int part = 0; part < DOWN; ++part) {
            // All are done with the stages, or with the part before.
            __syncthreads();
#pragma unroll
            for (int i = 0; i < DOWN; ++i) {
                // Registers have no index that is known only later.
                if (i == part) {
#pragma unroll
                    for (int j = 0; j < ACROSS; ++j) {
                        store<2>(mine + j * 8, &sums[i][j][0]);
                        store<2>(mine + j * 8 + 8 * LINE, &sums[i][j][2]);
                    }
                }
            }
            __syncthreads();
#pragma unroll 1
            for (int first = threadIdx.x; first < LINES * QUADS; first += THREADS * BATCH) {
                int row[BATCH], column[BATCH];
                i64 to[BATCH];
                float values[BATCH][4];
#pragma unroll
                for (int n = 0; n < BATCH; ++n) {
                    const int line = (first + n * THREADS) / QUADS, quad = (first + n * THREADS) % QUADS;
                    row[n] = first_row + line / 16 * WARP_ROWS + part * 16 + line % 16;
                    column[n] = first_column + quad * 4;
                    to[n] = out.place(row[n]);
                    load<4>(values[n], shared + line * LINE + quad * 4);
                }
                out.finish.quads(row, to, column, values);
            }
        }
    }
};

// Products in f32 throughout, of any types and lengths: 256 threads, 64 x 64 values, 4 x 4 a thread.
template <class Left, class Right, class Out>
__device__ void plain_tile(const Left& left, const Right& right, int depth, const Out& out) {
    constexpr int SIZE = 64, DEPTH = 16, LINE = SIZE + 4;
    __shared__ float lefts[DEPTH][LINE], rights[DEPTH][LINE];
    const TilePlace tile(ceil_div(out.rows(), SIZE), ceil_div(out.columns(), SIZE));
    const int first_row = tile.down * SIZE, first_column = tile.across * SIZE;
    const int line = threadIdx.x / 4, part = threadIdx.x % 4 * 4;
    const auto left_slot = left.slot(first_row + line);
    const auto right_slot = right.slot(first_column + line);
    auto left_walk = left.walk(part);
    auto right_walk = right.walk(part);
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    float sums[4][4] = {};
    for (int k0 = 0; k0 < depth; k0 += DEPTH) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const auto* from = left.find(left_slot, left_walk);
            const auto* other = right.find(right_slot, right_walk);
            lefts[part + i][line] = from != nullptr ? to_f32(*from) : 0.0f;
            rights[part + i][line] = other != nullptr ? to_f32(*other) : 0.0f;
            left_walk.advance(1);
            right_walk.advance(1);
        }
        left_walk.advance(DEPTH - 4);
        right_walk.advance(DEPTH - 4);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            float a[4], b[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                a[i] = lefts[k][row + i];
                b[i] = rights[k][column + i];
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
            }
        }
        __syncthreads();
    }
    int rows[4], columns[4];
    i64 to[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        rows[i] = first_row + row + i;
        columns[i] = first_column + column;
        to[i] = out.place(rows[i]);
    }
    out.finish.quads(rows, to, columns, sums);
}

// What is left of a layer after a product by a vendor's library: from sums[rows][outputs] by bias,
// activation and gate. `sums` may be `out` itself.
template <class T, class F>
__device__ void finish_sums(const T* sums, const F& finish) {
    const int quads = ceil_div(finish.columns, 4);
    const i64 step = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (i64)finish.rows * quads; i += step) {
        const int row[1] = {(int)(i / quads)}, column[1] = {(int)(i % quads) * 4};
        const i64 to[1] = {row[0]};
        float values[1][4];
        F::read(values[0], sums + to[0] * finish.columns + column[0], finish.columns % 4 == 0,
                finish.columns - column[0]);
        finish.quads(row, to, column, values);
    }
}
