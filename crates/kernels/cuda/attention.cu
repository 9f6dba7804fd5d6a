// Softmax attention in tiles of keys with an online softmax (Dao 2023, FlashAttention-2, algorithm 1):
// q[queries][heads * key_size], k[keys][heads * key_size], v[keys][heads * value_size] to
// out[queries][heads * value_size].

// 2^x to about two units in the last place; 0 for the lowest.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef LONGREEL_SHIM
    return exp2f(x);
#else
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#endif
}

// On the tensor cores, for heads of a multiple of 8 values, at most SIZE (what is missing counts as
// zeros). Four warps, each with FRAGMENTS x 16 queries and all KEYS keys of a tile. `walk` says which these
// are; blockIdx.y: head.
//
// While the scores are computed the values are on their way, and the next keys while the values are
// summed. A line of shared memory is SIZE values; of each eight pieces of 16 bytes, piece c of line r
// is kept at place c ^ r % 8, so that eight lines' pieces at one place are in different banks.
template <int SIZE, int FRAGMENTS, int KEYS>
struct TensorAttention {
    static constexpr int THREADS = 128, QUERIES = 64 * FRAGMENTS, PIECES = SIZE / 8;
    static_assert(SIZE % 64 == 0 && KEYS % 16 == 0, "whole lines of 128 bytes, whole fragments");

    static __device__ bf16* place(bf16* lines, int line, int piece) {
        return lines + line * SIZE + (piece & ~7) * 8 + ((piece ^ line) & 7) * 8;
    }

    // Begins the copy of `COUNT` lines, line i from row `row(i)`; lines without a row (below 0), and pieces
    // behind the head's `size`, are zeros.
    template <int COUNT, class Row>
    static __device__ __forceinline__ void bring(bf16* lines, const bf16* from, Row row, int size, int row_values) {
        static_assert(COUNT * PIECES % THREADS == 0, "the same for each thread");
#pragma unroll
        for (int i = 0; i < COUNT * PIECES / THREADS; ++i) {
            const int index = i * THREADS + threadIdx.x, line = index / PIECES, piece = index % PIECES;
            const int at_row = row(line);
            const bool present = at_row >= 0 && piece * 8 < size;
            const bf16* at = from + (i64)at_row * row_values + piece * 8;
            cp_async_16(place(lines, line, piece), present ? at : from, present ? 16 : 0);
        }
    }

    template <class Walk>
    static __device__ __forceinline__ void run(Walk walk, const bf16* q, const bf16* k, const bf16* v, bf16* out, int key_size,
                                               int value_size, float scale, bf16* shared) {
        const int heads = gridDim.y, head = blockIdx.y;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int key_row = heads * key_size, value_row = heads * value_size;
        bf16 *query_lines = shared, *key_lines = query_lines + QUERIES * SIZE, *value_lines = key_lines + KEYS * SIZE;
        q += (i64)head * key_size;
        k += (i64)head * key_size;
        v += (i64)head * value_size;

        // exp(scale x) is 2^(factor x).
        const float factor = scale * 1.44269504f;
        float sums[FRAGMENTS][SIZE / 8][4] = {};
        // Of rows lane / 4 and lane / 4 + 8: the largest score, the sum of this thread's exponentials.
        float largest[FRAGMENTS][2], total[FRAGMENTS][2];
#pragma unroll
        for (int f = 0; f < FRAGMENTS; ++f) {
            largest[f][0] = largest[f][1] = LOWEST;
            total[f][0] = total[f][1] = 0.0f;
        }

        auto query = [&](int line) { return walk.query(line); };
        auto key = [&](int line) { return walk.key(line); };
        bring<QUERIES>(query_lines, q, query, key_size, key_row);
        if (walk.more()) bring<KEYS>(key_lines, k, key, key_size, key_row);
        cp_async_commit();
        while (walk.more()) {
            const Walk now = walk;
            cp_async_wait<0>();
            // The keys are there for all, and all are done with the values before.
            __syncthreads();
            bring<KEYS>(value_lines, v, key, value_size, value_row);
            cp_async_commit();

            float scores[FRAGMENTS][KEYS / 8][4] = {};
#pragma unroll
            for (int d = 0; d < PIECES; d += 2) {
                unsigned a[FRAGMENTS][4];
#pragma unroll
                for (int f = 0; f < FRAGMENTS; ++f) {
                    ldmatrix_x4(a[f], place(query_lines, (warp * FRAGMENTS + f) * 16 + lane % 16, d + lane / 16));
                }
#pragma unroll
                for (int n = 0; n < KEYS / 16; ++n) {
                    unsigned b[4];
                    ldmatrix_x4(b, place(key_lines, n * 16 + lane / 16 * 8 + lane % 8, d + lane / 8 % 2));
#pragma unroll
                    for (int f = 0; f < FRAGMENTS; ++f) {
                        mma_m16n8k16_bf16(scores[f][2 * n], a[f], b);
                        mma_m16n8k16_bf16(scores[f][2 * n + 1], a[f], b + 2);
                    }
                }
            }

            cp_async_wait<0>();
            // The values are there for all, and all are done with the keys.
            __syncthreads();
            walk.advance();
            if (walk.more()) bring<KEYS>(key_lines, k, key, key_size, key_row);
            cp_async_commit();

            if (!now.is_plain()) {
#pragma unroll
                for (int f = 0; f < FRAGMENTS; ++f) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const auto row = now.row((warp * FRAGMENTS + f) * 16 + half * 8 + lane / 4);
#pragma unroll
                        for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                            for (int i = 0; i < 2; ++i) {
                                const int column = n * 8 + lane % 4 * 2 + i;
                                float& score = scores[f][n][half * 2 + i];
                                score = row.sees(column) ? score + row.added(column) / scale : LOWEST;
                            }
                        }
                    }
                }
            }

#pragma unroll
            for (int f = 0; f < FRAGMENTS; ++f) {
                float shrinks[2];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float& most = largest[f][half];
                    const float before = most;
#pragma unroll
                    for (int n = 0; n < KEYS / 8; ++n) {
                        most = fmaxf(most, fmaxf(scores[f][n][half * 2], scores[f][n][half * 2 + 1]));
                    }
                    // A row is in four neighbouring lanes.
                    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
                    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
                    // Where nothing was seen yet there is nothing to be relative to.
                    // Both products are rounded, never fused with the difference: where the largest stays, the
                    // factor is 1 and not a little off, over and over.
                    const float origin = most == LOWEST ? 0.0f : __fmul_rn(most, factor);
                    shrinks[half] = exp2_fast(__fmul_rn(before, factor) - origin);
                    float added = 0.0f;
#pragma unroll
                    for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                        for (int i = 0; i < 2; ++i) {
                            float& score = scores[f][n][half * 2 + i];
                            score = exp2_fast(fmaf(score, factor, -origin));
                            added += score;
                        }
                    }
                    total[f][half] = total[f][half] * shrinks[half] + added;
                }
                // The largest scores of most rows come early.
                if (__any_sync(0xffffffffu, shrinks[0] != 1.0f || shrinks[1] != 1.0f)) {
#pragma unroll
                    for (int n = 0; n < SIZE / 8; ++n) {
#pragma unroll
                        for (int i = 0; i < 4; ++i) sums[f][n][i] *= shrinks[i / 2];
                    }
                }
            }

            // What the products gave as sums is, packed, just what they take as a left side.
#pragma unroll
            for (int n = 0; n < KEYS / 16; ++n) {
                unsigned a[FRAGMENTS][4];
#pragma unroll
                for (int f = 0; f < FRAGMENTS; ++f) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const float* pair = &scores[f][2 * n + i / 2][i % 2 * 2];
                        a[f][i] = pack_bf16(pair[0], pair[1]);
                    }
                }
#pragma unroll
                for (int d = 0; d < PIECES; d += 2) {
                    unsigned b[4];
                    ldmatrix_x4_trans(b, place(value_lines, n * 16 + lane % 16, d + lane / 16));
#pragma unroll
                    for (int f = 0; f < FRAGMENTS; ++f) {
                        mma_m16n8k16_bf16(sums[f][d], a[f], b);
                        mma_m16n8k16_bf16(sums[f][d + 1], a[f], b + 2);
                    }
                }
            }
        }

        // Where nothing was seen the queries are still on their way.
        cp_async_wait<0>();
#pragma unroll
        for (int f = 0; f < FRAGMENTS; ++f) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float all = total[f][half];
                all += __shfl_xor_sync(0xffffffffu, all, 1);
                all += __shfl_xor_sync(0xffffffffu, all, 2);
                const float inverse = all > 0.0f ? 1.0f / all : 0.0f;
                const int row = walk.query((warp * FRAGMENTS + f) * 16 + half * 8 + lane / 4);
                if (row >= 0) {
                    bf16* to = out + (i64)row * value_row + head * value_size;
#pragma unroll
                    for (int n = 0; n < SIZE / 8; ++n) {
                        const int column = n * 8 + lane % 4 * 2;
                        if (column < value_size) {
                            const float values[2] = {sums[f][n][half * 2] * inverse, sums[f][n][half * 2 + 1] * inverse};
                            store<2>(to + column, values);
                        }
                    }
                }
            }
        }
    }
};

// In f32 throughout, for any heads and types: 16 queries a block, 32 keys at a time, 128 threads, each
// with up to four columns of the values. blockIdx.x: queries; y: head; z: 512 columns of the values.
constexpr int PLAIN_QUERIES = 16, PLAIN_KEYS = 32;

template <class Walk, class T>
__device__ void plain_attention(Walk walk, const T* q, const T* k, const T* v, T* out, int key_size, int value_size, float scale) {
    constexpr int QUERIES = PLAIN_QUERIES, KEYS = PLAIN_KEYS, THREADS = 128, PART = 128, COLUMNS = 4;
    // Lines of four values more than a part, so that threads with neighbouring lines read different banks.
    __shared__ __align__(16) float query_lines[QUERIES][PART + 4], key_lines[KEYS][PART + 4];
    __shared__ __align__(16) float scores[QUERIES][KEYS];
    __shared__ float shrinks[QUERIES], totals[QUERIES];
    const int heads = gridDim.y, head = blockIdx.y, first_column = blockIdx.z * THREADS * COLUMNS;
    const int key_row = heads * key_size, value_row = heads * value_size;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    q += (i64)head * key_size;
    k += (i64)head * key_size;
    v += (i64)head * value_size;
    float sums[QUERIES][COLUMNS] = {};
    // Warp w has queries 4 w..4 w + 3; each of its lanes one key.
    float largest[4] = {LOWEST, LOWEST, LOWEST, LOWEST}, total[4] = {};

    for (; walk.more(); walk.advance()) {
        float products[4] = {};
        for (int part = 0; part < key_size; part += PART) {
            const int size = key_size - part < PART ? key_size - part : PART, whole = (size + 3) / 4 * 4;
            __syncthreads();
            for (int i = thread; i < (QUERIES + KEYS) * PART; i += THREADS) {
                const int line = i / PART, d = i % PART;
                if (line < QUERIES) {
                    const int at = walk.query(line);
                    query_lines[line][d] = d < size && at >= 0 ? to_f32(q[(i64)at * key_row + part + d]) : 0.0f;
                } else {
                    const int at = walk.key(line - QUERIES);
                    key_lines[line - QUERIES][d] = d < size && at >= 0 ? to_f32(k[(i64)at * key_row + part + d]) : 0.0f;
                }
            }
            __syncthreads();
            for (int d = 0; d < whole; d += 4) {
                float theirs[4];
                load<4>(theirs, &key_lines[lane][d]);
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    float ours[4];
                    load<4>(ours, &query_lines[warp * 4 + r][d]);
#pragma unroll
                    for (int i = 0; i < 4; ++i) products[r] = fmaf(ours[i], theirs[i], products[r]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const auto row = walk.row(warp * 4 + r);
            const float score = row.sees(lane) ? products[r] * scale + row.added(lane) : LOWEST;
            float most = score;
#pragma unroll
            for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
            most = fmaxf(most, largest[r]);
            const float origin = most == LOWEST ? 0.0f : most;
            const float shrink = expf(largest[r] - origin), weight = expf(score - origin);
            total[r] = total[r] * shrink + group_sum(weight);
            largest[r] = most;
            scores[warp * 4 + r][lane] = weight;
            if (lane == 0) shrinks[warp * 4 + r] = shrink;
        }
        __syncthreads();
        const int there = walk.there();
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            const int column = first_column + c * THREADS + thread;
            if (column < value_size) {
#pragma unroll
                for (int r = 0; r < QUERIES; ++r) sums[r][c] *= shrinks[r];
                for (int j = 0; j < there; ++j) {
                    const float value = to_f32(v[(i64)walk.key(j) * value_row + column]);
#pragma unroll
                    for (int r = 0; r < QUERIES; ++r) sums[r][c] = fmaf(scores[r][j], value, sums[r][c]);
                }
            }
        }
    }

#pragma unroll
    for (int r = 0; r < 4; ++r) {
        if (lane == 0) totals[warp * 4 + r] = total[r];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < QUERIES; ++r) {
        const int row = walk.query(r);
        if (row < 0) break;
        const float inverse = totals[r] > 0.0f ? 1.0f / totals[r] : 0.0f;
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            const int column = first_column + c * THREADS + thread;
            if (column < value_size) set(out[(i64)row * value_row + head * value_size + column], sums[r][c] * inverse);
        }
    }
}
