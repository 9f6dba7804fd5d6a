// Attention over all keys that a mask lets queries see.

#define ATTENTION_PARAMETERS(T)                                                                            \
    const T *q, const T *k, const T *v, T *out, const float *bias, int queries, int keys, int key_size,    \
        int value_size, float scale, float last_key_bias, int first_query, int tokens_per_block,           \
        int window, int sink
#define SEEN \
    Seen { keys, first_query, tokens_per_block, window, sink }
// What is added to the scores of this block's head.
#define HEAD_BIAS (bias == nullptr ? nullptr : bias + (i64)blockIdx.y * queries * keys)

// blockIdx.x: tile of queries, the last first, because under a causal mask it sees the most.
#define ATTENTION_TENSOR(name, SIZE, FRAGMENTS, KEYS)                                                      \
    extern "C" __global__ void __launch_bounds__(128) name(ATTENTION_PARAMETERS(bf16)) {                   \
        DYNAMIC_SHARED(shared);                                                                            \
        using Attention = TensorAttention<SIZE, FRAGMENTS, KEYS>;                                          \
        const int first = (gridDim.x - 1 - blockIdx.x) * Attention::QUERIES;                               \
        const RunsOfKeys walk(SEEN, first, Attention::QUERIES, queries, KEYS, HEAD_BIAS, last_key_bias);   \
        Attention::run(walk, q, k, v, out, key_size, value_size, scale, (bf16*)shared);                    \
    }

ATTENTION_TENSOR(attention_64, 64, 2, 32)
ATTENTION_TENSOR(attention_128, 128, 2, 32)
ATTENTION_TENSOR(attention_256, 256, 1, 32)
ATTENTION_TENSOR(attention_384, 384, 1, 16)

#define ATTENTION_PLAIN(T)                                                                                 \
    extern "C" __global__ void __launch_bounds__(128) attention_##T(ATTENTION_PARAMETERS(T)) {             \
        const RunsOfKeys walk(SEEN, blockIdx.x * PLAIN_QUERIES, PLAIN_QUERIES, queries, PLAIN_KEYS,        \
                              HEAD_BIAS, last_key_bias);                                                   \
        plain_attention(walk, q, k, v, out, key_size, value_size, scale);                                  \
    }

FOR_EACH_ELEMENT(ATTENTION_PLAIN)
