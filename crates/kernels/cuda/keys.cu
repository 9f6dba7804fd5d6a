// Which queries and keys the threads of a block go over in attention.

// The score of a key that is not seen.
#define LOWEST __int_as_float(0xff800000)

// Which keys a query sees. Tokens stand in blocks of `tokens_per_block` (0: everything is seen);
// a query sees its own block, the `window` before it and the first `sink` of all, none after it.
struct Seen {
    int keys, first_query, tokens_per_block, window, sink;

    __device__ int block(int query) const { return (first_query + query) / tokens_per_block; }
    // The first key behind those that the query sees.
    __device__ int end(int query) const {
        if (tokens_per_block == 0) return keys;
        const i64 end = ((i64)block(query) + 1) * tokens_per_block;
        return end < keys ? (int)end : keys;
    }
    // The first key of its window.
    __device__ int start(int query) const {
        if (tokens_per_block == 0) return 0;
        const int block = this->block(query);
        return block > window ? (block - window) * tokens_per_block : 0;
    }
    // The first key behind the blocks that all see.
    __device__ int sink_end() const {
        const i64 end = (i64)sink * tokens_per_block;
        return end < keys ? (int)end : keys;
    }
};

// The tiles of `size` keys that any of the queries first..last sees, in order.
struct KeyTiles {
    int sink_end, window_start, end, at;

    __device__ KeyTiles(const Seen& seen, int first, int last, int size) {
        end = (seen.end(last) + size - 1) / size;
        sink_end = (seen.sink_end() + size - 1) / size;
        window_start = seen.start(first) / size;
        at = -1;
        advance();
    }
    __device__ void advance() {
        ++at;
        if (at >= sink_end && at < window_start) at = window_start;
    }
    __device__ bool more() const { return at < end; }
};

// What a block of threads goes over where queries see runs of keys: queries first..last, and the tiles of
// `size` keys that any of them sees.
struct RunsOfKeys {
    Seen seen;
    int first, last, queries, size;
    const float* bias;  // of this head, or null
    float last_key_bias;
    KeyTiles tile;

    // A query and the keys of the tile at hand, counted from the tile's first one.
    struct Row {
        int start, end, sink_end, last_key;
        const float* bias;
        float last_key_bias;

        __device__ bool sees(int key) const { return key < end && (key >= start || key < sink_end); }
        __device__ float added(int key) const {
            return (bias != nullptr ? bias[key] : 0.0f) + (key == last_key ? last_key_bias : 0.0f);
        }
    };

    __device__ RunsOfKeys(const Seen& seen, int first, int lines, int queries, int size, const float* bias, float last_key_bias)
        : seen(seen), first(first), last((first + lines < queries ? first + lines : queries) - 1), queries(queries),
          size(size), bias(bias), last_key_bias(last_key_bias), tile(seen, first, last, size) {}

    __device__ bool more() const { return tile.more(); }
    __device__ void advance() { tile.advance(); }
    __device__ int there() const { return seen.keys - tile.at * size < size ? seen.keys - tile.at * size : size; }
    // The rows of a query and of a key of the tile; below 0 where there is none.
    __device__ int query(int line) const { return first + line < queries ? first + line : -1; }
    __device__ int key(int line) const { return tile.at * size + line < seen.keys ? tile.at * size + line : -1; }
    // Whether all queries see all of the tile, and nothing is added.
    __device__ bool is_plain() const {
        const int first_key = tile.at * size, end_key = first_key + size;
        const bool all_seen = end_key <= seen.end(first) && (first_key >= seen.start(last) || end_key <= seen.sink_end());
        return all_seen && bias == nullptr && (last_key_bias == 0.0f || end_key < seen.keys);
    }
    __device__ Row row(int line) const {
        const int query = first + line < queries ? first + line : queries - 1, first_key = tile.at * size;
        const float* added = bias == nullptr ? nullptr : bias + (i64)query * seen.keys + first_key;
        return {seen.start(query) - first_key, seen.end(query) - first_key, seen.sink_end() - first_key,
                seen.keys - 1 - first_key, added, last_key_bias};
    }
};

// Tokens of a video in blocks of neighbours, see `TokenBlocks`: `order` lists the keys' tokens, those of a
// causal block of `tokens_per_block` in one run, which is cut into blocks of `size`, the last of it shorter.
struct TokenBlocks {
    const int* order;
    int keys, tokens_per_block;

    __device__ int per_causal(int size) const { return (tokens_per_block + size - 1) / size; }
    __device__ int start(int block, int size) const {
        const int per = per_causal(size);
        return block / per * tokens_per_block + block % per * size;
    }
    __device__ int end(int block, int size) const {
        const int end = start(block, size) + size, causal_end = (block / per_causal(size) + 1) * tokens_per_block;
        const int least = end < causal_end ? end : causal_end;
        return least < keys ? least : keys;
    }
};

// Tokens of a block of queries, and of a block of keys.
#define QUERY_BLOCK 128
#define KEY_BLOCK 64

// What a block of threads goes over where a block of queries sees some blocks of keys: `lines` of its queries from
// place `first` on, and the blocks whose bits are set, in tiles of `size` keys.
struct KeptBlocks {
    TokenBlocks blocks;
    const unsigned* bits;
    int first_query, first, end, size;
    int words, word, key_start, key_end;
    unsigned left;

    struct Row {
        int count;
        __device__ bool sees(int key) const { return key < count; }
        __device__ float added(int) const { return 0.0f; }
    };

    __device__ KeptBlocks(const TokenBlocks& blocks, const unsigned* bits, int words, int first_query, int block, int part, int lines, int size)
        : blocks(blocks), bits(bits), first_query(first_query), size(size), words(words), word(0), key_start(0), key_end(0) {
        first = blocks.start(block, QUERY_BLOCK) + part * lines;
        const int block_end = blocks.end(block, QUERY_BLOCK);
        end = first + lines < block_end ? first + lines : block_end;
        left = bits[0];
        advance();
    }

    __device__ bool more() const { return key_start < key_end; }
    __device__ void advance() {
        key_start += size;
        if (key_start < key_end) return;
        while (left == 0 && ++word < words) left = bits[word];
        if (left == 0) {
            key_start = key_end = 0;
            return;
        }
        const int block = word * 32 + __ffs((int)left) - 1;
        left &= left - 1;
        key_start = blocks.start(block, KEY_BLOCK);
        key_end = blocks.end(block, KEY_BLOCK);
    }
    __device__ int there() const { return key_end - key_start < size ? key_end - key_start : size; }
    __device__ int query(int line) const { return first + line < end ? blocks.order[first + line] - first_query : -1; }
    __device__ int key(int line) const { return key_start + line < key_end ? blocks.order[key_start + line] : -1; }
    __device__ bool is_plain() const { return key_start + size <= key_end; }
    __device__ Row row(int) const { return {key_end - key_start}; }
};
