// Moves of values. Threads go over the result in its order.

// Latents [T][C][H][W] to patches [T * H/ph * W/pw][C * ph * pw].
#define DEFINE(In, Out)                                                                          \
    extern "C" __global__ void patchify_##In##_##Out(Out *out, const In *x, i64 len, int channels, \
                                                     int height, int width, int ph, int pw) {    \
        int gh = height / ph, gw = width / pw, dim = channels * ph * pw;                         \
        for (i64 at = thread_of_grid(); at < len; at += threads_of_grid()) {                     \
            i64 token = at / dim;                                                                \
            int i = (int)(at % dim);                                                             \
            int channel = i / (ph * pw), dy = i / pw % ph, dx = i % pw;                          \
            int column = (int)(token % gw), row = (int)(token / gw % gh);                        \
            i64 line = (token / ((i64)gh * gw) * channels + channel) * height + row * ph + dy;   \
            set(out[at], to_f32(x[line * width + column * pw + dx]));                            \
        }                                                                                        \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

// Rows [T * gh * gw][ph * pw * C], channels innermost, to latents [T][C][gh * ph][gw * pw].
#define DEFINE(In, Out)                                                                          \
    extern "C" __global__ void unpatchify_##In##_##Out(                                          \
        Out *out, const In *x, i64 len, int channels, int gh, int gw, int ph, int pw) {          \
        int height = gh * ph, width = gw * pw;                                                   \
        for (i64 at = thread_of_grid(); at < len; at += threads_of_grid()) {                     \
            int column = (int)(at % width), row = (int)(at / width % height);                    \
            i64 plane = at / width / height;                                                     \
            int channel = (int)(plane % channels);                                               \
            i64 token = (plane / channels * gh + row / ph) * gw + column / pw;                   \
            int place = (row % ph * pw + column % pw) * channels + channel;                      \
            set(out[at], to_f32(x[token * (ph * pw * channels) + place]));                       \
        }                                                                                        \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

// out = x with the one row `row` added to each of its rows of `dim` values; `out` may be `x`.
#define DEFINE(X, Row)                                                                           \
    extern "C" __global__ void add_row_##X##_##Row(X *x, const Row *row, i64 len, int dim) {     \
        for (i64 at = thread_of_grid(); at < len; at += threads_of_grid())                       \
            set(x[at], to_f32(x[at]) + to_f32(row[at % dim]));                                   \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

// Part `blockIdx.y` of a signal [rows][width] plus that of a table [parts][dim], to an array [rows][dim]
// of its own; a signal that is `dim` wide is the same for all parts.
#define DEFINE(T)                                                                                \
    extern "C" __global__ void split_modulation_##T(float *out0, float *out1, float *out2,       \
                                                    float *out3, float *out4, float *out5,       \
                                                    const T *signal, const float *table,         \
                                                    i64 rows, int dim, int width) {              \
        float *outs[6] = {out0, out1, out2, out3, out4, out5};                                   \
        int part = blockIdx.y, start = width == dim ? 0 : part * dim;                            \
        for (i64 at = thread_of_grid(); at < rows * dim; at += threads_of_grid()) {              \
            i64 row = at / dim;                                                                  \
            int i = (int)(at % dim);                                                             \
            outs[part][at] = table[part * dim + i] + to_f32(signal[row * width + start + i]);    \
        }                                                                                        \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE

// `columns` columns of a matrix [rows][x_width] from `x_first` on to those of another one
// [rows][out_width] from `out_first` on; `len` values in all.
#define DEFINE(T)                                                                                \
    extern "C" __global__ void move_columns_##T(T *out, const T *x, i64 len, i64 columns,        \
                                                i64 out_width, i64 out_first, i64 x_width,       \
                                                i64 x_first) {                                   \
        for (i64 at = thread_of_grid(); at < len; at += threads_of_grid()) {                     \
            i64 row = at / columns, column = at % columns;                                       \
            out[row * out_width + out_first + column] = x[row * x_width + x_first + column];     \
        }                                                                                        \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE
