// The instructions of tensor cores and asynchronous copies, as the PTX ISA describes them (chapters
// "Matrix fragments for mma.m16n8k16" and "mma.m16n8k32", "ldmatrix", "cp.async"). On a card `common.cu` has the same
// functions as inline PTX.

namespace shim {

inline float from_bf16(unsigned bits) { return shim_bits<float>(bits << 16); }

struct MmaFragments {
    unsigned a[4], b[2];
    float c[4];
};
struct MmaResult {
    float d[4];
};

// e4m3 has no infinity, and one NaN of either sign.
inline float from_e4m3(unsigned bits) {
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float magnitude = exponent == 0 ? ldexpf(mantissa, -9) : ldexpf(8 + mantissa, exponent - 10);
    if ((bits & 0x7f) == 0x7f) magnitude = NAN;
    return bits & 0x80 ? -magnitude : magnitude;
}

// Where value `i` of lane `lane` stands in A (16 x 8 N), B (8 N x 8) and C (16 x 8), for registers of N values.
template <int N>
inline int a_row(int lane, int i) { return lane / 4 + (i / N % 2) * 8; }
template <int N>
inline int a_column(int lane, int i) { return lane % 4 * N + i % N + (i / (2 * N)) * 4 * N; }
template <int N>
inline int b_row(int lane, int i) { return lane % 4 * N + i % N + (i / N) * 4 * N; }
inline int b_column(int lane, int) { return lane / 4; }
inline int c_row(int lane, int i) { return lane / 4 + (i / 2) * 8; }
inline int c_column(int lane, int i) { return lane % 4 * 2 + i % 2; }

// d += a b, whose registers hold N values each; `Value` makes a number of the bits of one.
template <int N, float Value(unsigned)>
static inline void mma(float *d, const unsigned *a, const unsigned *b) {
    MmaFragments mine;
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    memcpy(mine.c, d, sizeof mine.c);
    auto result = collective<MmaFragments, MmaResult>(~0u, mine, [](auto in, auto out, unsigned arrived) {
        if (arrived != ~0u) fail("mma without all lanes of the warp");
        constexpr int DEPTH = 8 * N, BITS = 32 / N;
        constexpr unsigned MASK = (1u << BITS) - 1;
        float a[16][DEPTH], b[DEPTH][8];
        for (int lane = 0; lane < 32; lane++) {
            for (int i = 0; i < 4 * N; i++)
                a[a_row<N>(lane, i)][a_column<N>(lane, i)] = Value(in[lane]->a[i / N] >> (i % N * BITS) & MASK);
            for (int i = 0; i < 2 * N; i++)
                b[b_row<N>(lane, i)][b_column(lane, i)] = Value(in[lane]->b[i / N] >> (i % N * BITS) & MASK);
        }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                int row = c_row(lane, i), column = c_column(lane, i);
                float sum = in[lane]->c[i];
                for (int k = 0; k < DEPTH; k++) sum += a[row][k] * b[k][column];
                out[lane]->d[i] = sum;
            }
    });
    memcpy(d, result.d, sizeof result.d);
}

template <int N>
struct Registers {
    unsigned r[N];
};

template <int N, bool TRANSPOSED>
static inline void load_matrices(unsigned *r, const void *row) {
    if (reinterpret_cast<uintptr_t>(row) % 16)
        fail("ldmatrix from an address that is no multiple of 16");
    auto loaded = collective<const void *, Registers<N>>(
        ~0u, row, [](auto in, auto out, unsigned arrived) {
            for (int lane = 0; lane < 32 && arrived == ~0u; lane++)
                for (int j = 0; j < N; j++) {
                    unsigned pair = 0;
                    for (int half = 0; half < 2; half++) {
                        int line = lane / 4, column = lane % 4 * 2 + half;
                        if (TRANSPOSED) {
                            int swapped = line;
                            line = column;
                            column = swapped;
                        }
                        auto from = static_cast<const unsigned short *>(*in[8 * j + line]);
                        pair |= unsigned(from[column]) << (16 * half);
                    }
                    out[lane]->r[j] = pair;
                }
        });
    // Of the lanes that give addresses.
    if (shim_lane() < 8 * N && !in_shared(row, 16)) fail("ldmatrix from outside shared memory");
    memcpy(r, loaded.r, sizeof loaded.r);
}

}  // namespace shim

#define MMA_E4M3

// d += a b, for bf16 a (16 x 16, rows) and b (16 x 8, columns), by the whole warp.
static inline void mma_m16n8k16_bf16(float *d, const unsigned *a, const unsigned *b) {
    shim::mma<2, shim::from_bf16>(d, a, b);
}

// d += a b, for e4m3 a (16 x 32, rows) and b (32 x 8, columns), by the whole warp.
static inline void mma_m16n8k32_e4m3(float *d, const unsigned *a, const unsigned *b) {
    shim::mma<4, shim::from_e4m3>(d, a, b);
}

// Lane 8 j + i gives the address of row i (8 values of 16 bits, in shared memory) of matrix j. r[j]
// becomes values 2 (lane % 4) and the next of row lane / 4 of matrix j, or of its transpose.
static inline void ldmatrix_x4(unsigned *r, const void *row) {
    shim::load_matrices<4, false>(r, row);
}
static inline void ldmatrix_x2(unsigned *r, const void *row) {
    shim::load_matrices<2, false>(r, row);
}
static inline void ldmatrix_x4_trans(unsigned *r, const void *row) {
    shim::load_matrices<4, true>(r, row);
}
static inline void ldmatrix_x2_trans(unsigned *r, const void *row) {
    shim::load_matrices<2, true>(r, row);
}

// Begins to copy 16 bytes to shared memory, of which only `valid` (0 to 16) are read and the rest
// are zeros. What is there until the wait is poison.
static inline void cp_async_16(void *shared, const void *global, int valid = 16) {
    if (!shim::in_shared(shared, 16)) shim::fail("cp.async to outside shared memory");
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16)
        shim::fail("cp.async with an address that is no multiple of 16");
    if (valid < 0 || valid > 16) shim::fail("cp.async of %d of 16 bytes", valid);
    shim::Fiber &fiber = shim::self();
    if (fiber.copy_count == fiber.copy_capacity) {
        fiber.copy_capacity = fiber.copy_capacity * 2 + 16;
        fiber.copies = static_cast<shim::PendingCopy *>(
            realloc(fiber.copies, fiber.copy_capacity * sizeof(shim::PendingCopy)));
    }
    memset(shared, shim::POISON, 16);
    fiber.copies[fiber.copy_count++] = {shared, global, 16, unsigned(valid), fiber.groups};
}

// Closes a group of copies.
static inline void cp_async_commit() { shim::self().groups++; }

// Waits for all of this thread's groups but the last `LEFT`.
template <int LEFT>
static inline void cp_async_wait() {
    shim::Fiber &fiber = shim::self();
    size_t kept = 0;
    for (size_t i = 0; i < fiber.copy_count; i++) {
        shim::PendingCopy copy = fiber.copies[i];
        if (copy.group + LEFT < fiber.groups) {
            memcpy(copy.to, copy.from, copy.valid);
            memset(static_cast<char *>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
        } else {
            fiber.copies[kept++] = copy;
        }
    }
    fiber.copy_count = kept;
}
