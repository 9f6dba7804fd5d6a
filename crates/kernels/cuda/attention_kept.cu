// Attention over the blocks of keys that `select.cu` keeps.

// `kept[heads][blocks of queries][words]` has a bit for each block of keys.
#define SPARSE_PARAMETERS(T)                                                                               \
    const T *q, const T *k, const T *v, T *out, const int *order, const unsigned *kept, int keys,          \
        int key_size, int value_size, float scale, int first_query, int tokens_per_block, int first_block, \
        int words
#define BLOCKS \
    TokenBlocks { order, keys, tokens_per_block }
// The bits of a block of queries, of `count` that are computed.
#define KEPT(count, block) (kept + ((i64)blockIdx.y * (count) + (block)) * words)

// blockIdx.x: block of queries from `first_block` on.
#define SPARSE_ATTENTION_TENSOR(name, SIZE)                                                                \
    extern "C" __global__ void __launch_bounds__(128) name(SPARSE_PARAMETERS(bf16)) {                      \
        DYNAMIC_SHARED(shared);                                                                            \
        using Attention = TensorAttention<SIZE, 2, 32>;                                                    \
        static_assert(Attention::QUERIES == QUERY_BLOCK, "a block of queries");                            \
        const KeptBlocks walk(BLOCKS, KEPT(gridDim.x, blockIdx.x), words, first_query,                     \
                              first_block + blockIdx.x, 0, QUERY_BLOCK, 32);                               \
        Attention::run(walk, q, k, v, out, key_size, value_size, scale, (bf16*)shared);                    \
    }

SPARSE_ATTENTION_TENSOR(sparse_attention_64, 64)
SPARSE_ATTENTION_TENSOR(sparse_attention_128, 128)

// blockIdx.x: a part of a block of queries.
#define SPARSE_ATTENTION_PLAIN(T)                                                                          \
    extern "C" __global__ void __launch_bounds__(128) sparse_attention_##T(SPARSE_PARAMETERS(T)) {         \
        constexpr int PARTS = QUERY_BLOCK / PLAIN_QUERIES;                                                 \
        const int block = blockIdx.x / PARTS;                                                              \
        const KeptBlocks walk(BLOCKS, KEPT(gridDim.x / PARTS, block), words, first_query,                  \
                              first_block + block, blockIdx.x % PARTS, PLAIN_QUERIES, PLAIN_KEYS);         \
        plain_attention(walk, q, k, v, out, key_size, value_size, scale);                                  \
    }

FOR_EACH_ELEMENT(SPARSE_ATTENTION_PLAIN)
