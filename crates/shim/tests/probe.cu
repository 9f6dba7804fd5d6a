// Kernels that use one thing each, rightly or wrongly.

// Sums the block's values through shared memory, in halves.
extern "C" __global__ void sum_of_block(float *out, const float *x) {
    __shared__ float part[96];
    part[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        float more = threadIdx.x < half ? part[threadIdx.x + half] : 0.0f;
        __syncthreads();
        part[threadIdx.x] += more;
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = part[0];
}

// Reads what the neighbour on either side has written, without waiting for it.
extern "C" __global__ void neighbours_without_barrier(float *out, int step) {
    DYNAMIC_SHARED(bytes);
    float *shared = (float *)bytes;
    shared[threadIdx.x] = 1.0f;
    out[blockIdx.x * blockDim.x + threadIdx.x] =
        shared[(threadIdx.x + blockDim.x + step) % blockDim.x];
}

// Some threads leave before the others meet.
extern "C" __global__ void leave_early(int *out) {
    if (threadIdx.x % 3 == 0) return;
    __syncthreads();
    int count = __syncthreads_count(threadIdx.x % 2 == 0);
    __syncwarp();
    out[threadIdx.x] = count;
}

extern "C" __global__ void wait_for_each_other(int *out) {
    if (threadIdx.x < 16) __syncthreads();
    else out[threadIdx.x] = __shfl_sync(0xffffffff, threadIdx.x, 0);
}

// Each of the shuffles, in halves of a warp for the last one.
extern "C" __global__ void shuffles(int *out) {
    int lane = threadIdx.x, value = 100 + lane;
    out[lane] = __shfl_sync(0xffffffff, value, 5);
    out[32 + lane] = __shfl_xor_sync(0xffffffff, value, 3);
    out[64 + lane] = __shfl_down_sync(0xffffffff, value, 2);
    out[96 + lane] = __shfl_up_sync(0xffffffff, value, 2);
    out[128 + lane] = __shfl_sync(0xffffffff, value, 1, 8);
    out[160 + lane] = __ballot_sync(0xffffffff, lane % 2);
    unsigned mine = lane < 16 ? 0xffff : 0xffff0000;
    out[192 + lane] = __shfl_sync(mine, value, lane < 16 ? 0 : 16);
}

// d = c + a b by one warp; a [16][16], b [8][16] (its columns), c and d [16][8].
extern "C" __global__ void tensor_product(float *d, const unsigned *a, const unsigned *b,
                                          const float *c) {
    int lane = threadIdx.x, group = lane / 4, pair = lane % 4;
    unsigned fa[4], fb[2];
    float sums[4];
    for (int i = 0; i < 4; i++) fa[i] = a[(group + i % 2 * 8) * 8 + pair + i / 2 * 4];
    for (int i = 0; i < 2; i++) fb[i] = b[group * 8 + pair + i * 4];
    for (int i = 0; i < 4; i++) sums[i] = c[(group + i / 2 * 8) * 8 + pair * 2 + i % 2];
    mma_m16n8k16_bf16(sums, fa, fb);
    for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + pair * 2 + i % 2] = sums[i];
}

// The same, with fragments that `ldmatrix` brings: a by rows, b from its rows [16][8] transposed.
extern "C" __global__ void tensor_product_from_shared(float *d, const unsigned *a,
                                                      const unsigned *b, const float *c, int wait) {
    DYNAMIC_SHARED(bytes);
    int lane = threadIdx.x, group = lane / 4, pair = lane % 4;
    cp_async_16(bytes + lane * 16, a + lane * 4);
    if (lane < 16) cp_async_16(bytes + 512 + lane * 16, b + lane * 4);
    cp_async_commit();
    if (wait) cp_async_wait<0>();
    __syncthreads();
    unsigned fa[4], fb[2];
    ldmatrix_x4(fa, bytes + (lane % 16 * 2 + lane / 16) * 16);
    ldmatrix_x2_trans(fb, bytes + 512 + lane % 16 * 16);
    float sums[4];
    for (int i = 0; i < 4; i++) sums[i] = c[(group + i / 2 * 8) * 8 + pair * 2 + i % 2];
    mma_m16n8k16_bf16(sums, fa, fb);
    for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + pair * 2 + i % 2] = sums[i];
}

extern "C" __global__ void copy_in_part(unsigned *out, const unsigned *x, int valid) {
    DYNAMIC_SHARED(bytes);
    cp_async_16(bytes, x, valid);
    cp_async_commit();
    cp_async_16(bytes + 16, x);
    cp_async_commit();
    cp_async_wait<1>();
    for (int i = 0; i < 8; i++) out[i] = ((unsigned *)bytes)[i];
}

extern "C" __global__ void every_argument(float *out, int a, long long b, float c) {
    out[0] = a + (float)b + c;
}

extern "C" __global__ void count_up(int *at) { atomicAdd(at, 1); }

extern "C" __global__ void write_at(float *out, long long at) { out[at] = 1.0f; }

extern "C" __global__ void write_in_shared(float *out, int at) {
    DYNAMIC_SHARED(bytes);
    ((float *)bytes)[at] = 1.0f;
    out[0] = 1.0f;
}

extern "C" __global__ void index_in_array(float *out, int at) {
    __shared__ float values[8];
    values[at] = 1.0f;
    out[0] = values[at];
}

extern "C" __global__ void read_unaligned(float *out, const float *x) {
    out[0] = ((const float4 *)(x + 1))->x;
}

extern "C" __global__ void divide(int *out, int by) { out[0] = 7 / by; }

// Static shared memory that nobody has written.
extern "C" __global__ void read_unset(float *out) {
    __shared__ float values[4];
    if (blockIdx.x % 2 == 0) values[threadIdx.x % 4] = 1.0f;
    out[blockIdx.x] = values[0];
}

extern "C" __global__ void __launch_bounds__(64) bounded(float *out) { out[threadIdx.x] = 1.0f; }

// The offset of a row, counted in 32 bits.
extern "C" __global__ void narrow_offset(u8 *out, int columns) {
    int row = blockIdx.x;
    out[row * columns] = 1;
}

// The same in 64.
extern "C" __global__ void wide_offset(u8 *out, int columns) {
    i64 row = blockIdx.x;
    out[row * columns] = 1;
}
