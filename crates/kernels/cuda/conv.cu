// Convolution, causal in time, channels last, as a matrix product whose left side is never made: row
// = output pixel, k = (dt, dy, dx, channel) of the window.

// Windows on frames[T][height][width][channels], before which stand the last of `history`.
template <class T>
struct Windows {
    const T* frames;
    const T* history_end;  // behind the last frame of the history
    int history, height, width, channels;
    int kt, kh, kw, st, sh, sw, top, left;
    int out_height, out_width;
    int rows, depth;

    // The window's first pixel. Rows beyond the last see no frame.
    struct Slot {
        int frame, y, x;
    };
    struct Walk {
        int channel, dx, dy, dt;
        int channels, kw, kh;
        __device__ void advance(int n) {
            channel += n;
            while (channel >= channels) {
                channel -= channels;
                if (++dx == kw) {
                    dx = 0;
                    if (++dy == kh) {
                        dy = 0;
                        ++dt;
                    }
                }
            }
        }
    };

    __device__ Slot slot(int row) const {
        if (row >= rows) return {-(1 << 30), 0, 0};
        const int x = row % out_width, y = row / out_width % out_height, t = row / out_width / out_height;
        return {t * st - (kt - 1), y * sh - top, x * sw - left};
    }
    __device__ Walk walk(int k) const {
        Walk walk{0, 0, 0, 0, channels, kw, kh};
        walk.advance(k);
        return walk;
    }
    __device__ const T* find(const Slot& slot, const Walk& walk) const {
        const int frame = slot.frame + walk.dt, y = slot.y + walk.dy, x = slot.x + walk.dx;
        const bool inside = walk.dt < kt && frame >= -history && (unsigned)y < (unsigned)height && (unsigned)x < (unsigned)width;
        if (!inside) return nullptr;
        const int pixel = (frame * height + y) * width + x;
        return (frame >= 0 ? frames : history_end) + (i64)pixel * channels + walk.channel;
    }
    __device__ const T* base() const { return frames; }
};

// Where the product's rows go: as they are, or to the pixels of one parity of a picture twice as
// high and wide.
struct Pixels {
    Finish finish;
    int doubled, odd_y, odd_x, height, width;

    __device__ int rows() const { return finish.rows; }
    __device__ int columns() const { return finish.columns; }
    __device__ i64 place(int row) const {
        if (!doubled) return row;
        const int x = row % width, y = row / width % height, t = row / width / height;
        return (((i64)t * height + y) * 2 + odd_y) * 2 * width + 2 * x + odd_x;
    }
};

// With `doubled`, blockIdx.z is the quarter: its weights [4][outputs][depth] one after the other, each
// for windows of 2 x 2 that begin one pixel before the output's in the even rows and columns.
#define CONV_PARAMETERS(Left, Right)                                                                       \
    const Left *frames, const Left *history_frames, int history, const Right *w, void *out, int out_bf16,  \
        const float *bias, int add, int doubled, int height, int width, int channels, int kt, int kh,      \
        int kw, int st, int sh, int sw, int top, int left, int out_height, int out_width, int rows,        \
        int outputs
#define CONV_SIDES(Left, Right)                                                                            \
    const int depth = kt * kh * kw * channels, odd_y = blockIdx.z / 2, odd_x = blockIdx.z % 2;             \
    const Windows<Left> windows{frames,                                                                    \
                                history_frames + (i64)history * height * width * channels,           \
                                history, height, width, channels, kt, kh, kw, st, sh, sw, top - odd_y,     \
                                left - odd_x, out_height, out_width, rows, depth};                         \
    const Plain<Right> weights{w + (i64)blockIdx.z * outputs * depth, outputs, depth};               \
    const Pixels pixels{{out, out_bf16, bias, nullptr, 0, 0, 0, add, rows, outputs},                       \
                        doubled, odd_y, odd_x, out_height, out_width}

// Channels of a multiple of 8, everything at multiples of 16 bytes.
#define CONV_TENSOR(name, ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS)                                          \
    extern "C" __global__ void __launch_bounds__(128) name(CONV_PARAMETERS(bf16, bf16)) {                  \
        CONV_SIDES(bf16, bf16);                                                                            \
        DYNAMIC_SHARED(shared); \
        typedef TensorTile<ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS> Tile;                                   \
        Tile::run(windows, weights, depth, (bf16*)shared, pixels);                               \
    }

CONV_TENSOR(conv_128x128, 128, 128, 64, 64)
CONV_TENSOR(conv_128x96, 128, 96, 64, 48)
CONV_TENSOR(conv_64x64, 64, 64, 32, 32)
CONV_TENSOR(conv_128x16, 128, 16, 32, 16)

// Any shapes and types.
#define CONV_PLAIN(name, Left, Right)                                                                      \
    extern "C" __global__ void __launch_bounds__(256) name(CONV_PARAMETERS(Left, Right)) {                 \
        CONV_SIDES(Left, Right);                                                                           \
        plain_tile(windows, weights, depth, pixels);                                                       \
    }

CONV_PLAIN(conv_f32_f32, float, float)
CONV_PLAIN(conv_f32_bf16, float, bf16)
CONV_PLAIN(conv_bf16_f32, bf16, float)
CONV_PLAIN(conv_bf16_bf16, bf16, bf16)
