// Which blocks of keys a block of queries sees in sparse attention: the means of both, and of the weights of
// softmax that those give to the blocks of keys the largest, until their sum is the share that is asked for
// (Zhang et al. 2025, SpargeAttn, arXiv:2502.18137, section 3.2, with blocks as `TokenBlocks` has them).

// Values of a head that a lane has at most: heads of up to 256.
#define LANE_VALUES 8

// means[heads][size][blocks]: the mean of the tokens of each block of `block_size`, from `first_block` on;
// likeness[heads][blocks]: the mean cosine of any two of them. Token t of x is row t - first_row. blockIdx.x:
// block; y: head; four warps, a token each at a time.
template <class T>
__device__ void pool_blocks(const T* x, const TokenBlocks& blocks, float* means, float* likeness, int block_size, int first_block, int first_row,
                            int size) {
    __shared__ float sums[4][2][32 * LANE_VALUES];
    __shared__ float part[33];
    const int heads = gridDim.y, head = blockIdx.y, block = first_block + blockIdx.x;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row_values = heads * size;
    const int start = blocks.start(block, block_size), end = blocks.end(block, block_size);
    float sum[LANE_VALUES] = {}, directions[LANE_VALUES] = {};
    for (int at = start + warp; at < end; at += 4) {
        const T* row = x + (i64)(blocks.order[at] - first_row) * row_values + head * size;
        float values[LANE_VALUES], squares = 0.0f;
#pragma unroll
        for (int i = 0; i < LANE_VALUES; ++i) {
            const int d = i * 32 + lane;
            values[i] = d < size ? to_f32(row[d]) : 0.0f;
            squares = fmaf(values[i], values[i], squares);
        }
        squares = group_sum(squares);
        const float inverse = squares > 0.0f ? rsqrtf(squares) : 0.0f;
#pragma unroll
        for (int i = 0; i < LANE_VALUES; ++i) {
            sum[i] += values[i];
            directions[i] = fmaf(values[i], inverse, directions[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < LANE_VALUES; ++i) {
        sums[warp][0][i * 32 + lane] = sum[i];
        sums[warp][1][i * 32 + lane] = directions[i];
    }
    __syncthreads();
    const float count = (float)(end - start);
    float squares = 0.0f;
    for (int d = threadIdx.x; d < size; d += blockDim.x) {
        const float all = sums[0][0][d] + sums[1][0][d] + sums[2][0][d] + sums[3][0][d];
        const float direction = sums[0][1][d] + sums[1][1][d] + sums[2][1][d] + sums[3][1][d];
        means[((i64)head * size + d) * gridDim.x + blockIdx.x] = all / count;
        squares = fmaf(direction, direction, squares);
    }
    squares = block_sum(squares, part);
    if (threadIdx.x == 0) likeness[(i64)head * gridDim.x + blockIdx.x] = squares / (count * count);
}

#define POOL_BLOCKS(T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(128)                                                      \
        pool_blocks_##T(const T* x, const int* order, float* means, float* likeness, int keys,             \
                        int tokens_per_block, int block_size, int first_block, int first_row, int size) {  \
        pool_blocks(x, TokenBlocks{order, keys, tokens_per_block}, means, likeness, block_size,            \
                    first_block, first_row, size);                                                         \
    }

FOR_EACH_ELEMENT(POOL_BLOCKS)

__device__ __forceinline__ float block_max(float v, float* part) {
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, step));
    const int warps = blockDim.x / 32;
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    for (int i = 0; i < warps; ++i) v = fmaxf(v, part[i]);
    __syncthreads();
    return v;
}

// What stands for the weight of a block that is not seen, and of one that is kept whatever it weighs.
#define UNSEEN (-1.0f)
#define ALWAYS (-2.0f)

// kept[heads][blocks of queries][words]: a bit for each of the `key_blocks`. `query_means` and `query_likeness` are
// of the blocks of queries from `first_block` on. A block of queries sees keys of its own causal block, of the
// `window` before it and of the first `sink`. All of them are kept where its queries are less alike than
// `least_likeness`; so are blocks whose keys are, and its own ones and their neighbours. Unless it is null, `pairs`
// grows by the pairs of a query and a key that are kept, and by those that are seen. blockIdx.x: block of queries;
// y: head.
extern "C" __global__ void __launch_bounds__(128)
    keep_blocks(const float* query_means, const float* query_likeness, const float* key_means, const float* key_likeness, unsigned* kept,
                unsigned long long* pairs, int keys, int tokens_per_block, int key_blocks, int first_block, int window, int sink, int size, int words, float scale,
                float mass, float least_likeness) {
    DYNAMIC_SHARED(shared);
    __shared__ float part[33];
    // Keys that are kept, and those that are seen.
    __shared__ unsigned counts[2];
    float *mean = (float*)shared, *weights = mean + size;
    const TokenBlocks blocks = {nullptr, keys, tokens_per_block};
    const int head = blockIdx.y, thread = threadIdx.x, threads = blockDim.x;
    const int per_causal = blocks.per_causal(KEY_BLOCK), queries_per_causal = blocks.per_causal(QUERY_BLOCK);
    const int block = first_block + blockIdx.x, causal = block / queries_per_causal;
    const int near = (causal > window ? causal - window : 0) * per_causal;
    const int end = (causal + 1) * per_causal < key_blocks ? (causal + 1) * per_causal : key_blocks;
    const i64 sink_end = (i64)sink * per_causal;
    const int own = causal * per_causal + block % queries_per_causal * 2;
    if (thread < 2) counts[thread] = 0;
    for (int d = thread; d < size; d += threads) mean[d] = query_means[((i64)head * size + d) * gridDim.x + blockIdx.x];
    __syncthreads();

    // Scores, or infinity where one is not needed.
    // What is no number is like nothing.
    const bool alike = query_likeness[(i64)head * gridDim.x + blockIdx.x] >= least_likeness;
    float most = LOWEST;
    for (int j = thread; j < key_blocks; j += threads) {
        float score = LOWEST;
        if (j < end && (j >= near || j < sink_end)) {
            score = -LOWEST;
            if (alike && key_likeness[(i64)head * key_blocks + j] >= least_likeness) {
                const float* other = key_means + (i64)head * size * key_blocks + j;
                float product = 0.0f;
                for (int d = 0; d < size; ++d) product = fmaf(mean[d], other[(i64)d * key_blocks], product);
                score = product * scale;
                most = fmaxf(most, score);
            }
        }
        weights[j] = score;
    }
    most = block_max(most, part);
    float total = 0.0f;
    for (int j = thread; j < key_blocks; j += threads) {
        const float score = weights[j];
        if (score == LOWEST) {
            weights[j] = UNSEEN;
        } else if (score == -LOWEST) {
            weights[j] = ALWAYS;
        } else {
            const float count = (float)(blocks.end(j, KEY_BLOCK) - blocks.start(j, KEY_BLOCK));
            weights[j] = count * expf(score - most);
            total += weights[j];
        }
    }
    total = block_sum(total, part);

    // The largest weight such that those from it on are enough, by halves: floats above 0 are in the order of
    // their bits. A block of keys weighs its number of tokens at most.
    unsigned enough = 0, few = __float_as_uint(2.0f * KEY_BLOCK);
    while (few - enough > 1) {
        const unsigned middle = (enough + few) / 2;
        const float least = __uint_as_float(middle);
        float sum = 0.0f;
        for (int j = thread; j < key_blocks; j += threads) sum += weights[j] >= least ? weights[j] : 0.0f;
        if (block_sum(sum, part) >= mass * total) {
            enough = middle;
        } else {
            few = middle;
        }
    }
    const float least = __uint_as_float(enough);
    unsigned* to = kept + ((i64)head * gridDim.x + blockIdx.x) * words;
    unsigned kept_keys = 0, seen_keys = 0;
    for (int word = thread; word < words; word += threads) {
        unsigned bits = 0;
        for (int i = 0; i < 32 && word * 32 + i < key_blocks; ++i) {
            const int j = word * 32 + i;
            const float weight = weights[j];
            const bool beside = j >= own - 1 && j <= own + 2 && j / per_causal == causal && weight != UNSEEN;
            const bool is_kept = weight == ALWAYS || weight >= least || beside;
            if (is_kept) bits |= 1u << i;
            const unsigned count = blocks.end(j, KEY_BLOCK) - blocks.start(j, KEY_BLOCK);
            kept_keys += is_kept ? count : 0;
            seen_keys += weight != UNSEEN ? count : 0;
        }
        to[word] = bits;
    }
    if (pairs == nullptr) return;
    atomicAdd(&counts[0], kept_keys);
    atomicAdd(&counts[1], seen_keys);
    __syncthreads();
    if (thread < 2) {
        const int queries = blocks.end(block, QUERY_BLOCK) - blocks.start(block, QUERY_BLOCK);
        atomicAdd(&pairs[thread], (unsigned long long)queries * counts[thread]);
    }
}
