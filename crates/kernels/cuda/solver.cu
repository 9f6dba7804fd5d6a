// How latents move: guidance, noise and the steps of the solvers. Nothing is fused and each operation rounded as the
// processor does, so that the bits are the same there and here.

__device__ __forceinline__ float times(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float minus(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float over(float a, float b) { return __fdiv_rn(a, b); }

#define EACH(i, len) for (i64 i = thread_of_grid(); i < len; i += threads_of_grid())

#define DEFINE(T)                                                                              \
    /* x = y + scale * (x - y). */                                                             \
    extern "C" __global__ void guide_##T(float *x, const T *y, i64 len, float scale) {         \
        EACH(i, len) {                                                                         \
            float from = to_f32(y[i]);                                                         \
            x[i] = plus(from, times(scale, minus(x[i], from)));                                \
        }                                                                                      \
    }                                                                                          \
    /* x = x * keep + y * add. */                                                              \
    extern "C" __global__ void mix_##T(float *x, const T *y, i64 len, float keep, float add) { \
        EACH(i, len) x[i] = plus(times(x[i], keep), times(to_f32(y[i]), add));                 \
    }                                                                                          \
    /* x += way * y. */                                                                        \
    extern "C" __global__ void go_##T(float *x, const T *y, i64 len, float way) {              \
        EACH(i, len) x[i] = plus(x[i], times(way, to_f32(y[i])));                              \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE

// The scalars of one update: `crate::ops::UniPcUpdate`.
struct UniPcUpdate {
    int order;
    float keep, data, weight, rho0, rho1, rho2, r0, r1;
};

// keep * x - data * m0 - weight * (differences), of which the last one is `newest` where there is one.
__device__ __forceinline__ float unipc(const UniPcUpdate &u, float x, const float *m, bool corrects,
                                       float newest) {
    const float rho[3] = {u.rho0, u.rho1, u.rho2}, r[2] = {u.r0, u.r1};
    float result = minus(times(u.keep, x), times(u.data, m[0]));
    float sum = 0.0f;
    int terms = 0;
#pragma unroll
    for (int k = 1; k < 3; k++)
        if (k < u.order) {
            float term = times(rho[k - 1], over(minus(m[k], m[0]), r[k - 1]));
            sum = terms ? plus(sum, term) : term;
            terms++;
        }
    if (corrects) {
        float last = u.order == 1 ? rho[0] : u.order == 2 ? rho[1] : rho[2];
        float term = times(last, minus(newest, m[0]));
        sum = terms ? plus(sum, term) : term;
        terms++;
    }
    return terms ? minus(result, times(u.weight, sum)) : result;
}

// One step: `crate::ops::unipc_step`. m0 to m2 are the predictions of earlier steps, the newest first, null where there is
// none. The corrector's order is 0 where there is none.
#define DEFINE(T)                                                                             \
    extern "C" __global__ void unipc_step_##T(                                                \
        float *x, const T *velocity, float *prediction, float *last, const float *m0,         \
        const float *m1, const float *m2, i64 len, float sigma, int in_place, int order,      \
        float keep, float data, float weight, float rho0, float rho1, float rho2, float r0,   \
        float r1, int c_order, float c_keep, float c_data, float c_weight, float c_rho0,      \
        float c_rho1, float c_rho2, float c_r0, float c_r1) {                                 \
        UniPcUpdate p = {order, keep, data, weight, rho0, rho1, rho2, r0, r1};                \
        UniPcUpdate c = {c_order, c_keep, c_data, c_weight, c_rho0, c_rho1, c_rho2, c_r0,     \
                         c_r1};                                                               \
        EACH(i, len) {                                                                        \
            float at = x[i];                                                                  \
            float newest = minus(at, times(sigma, to_f32(velocity[i])));                      \
            float m[3] = {m0 ? m0[i] : 0.0f, m1 ? m1[i] : 0.0f, m2 ? m2[i] : 0.0f};           \
            if (c_order) at = unipc(c, last[i], m, true, newest);                             \
            float now[3] = {newest, m[0], m[1]};                                              \
            float to = unipc(p, at, now, false, 0.0f);                                        \
            prediction[i] = newest;                                                           \
            last[i] = in_place && !c_order ? to : at;                                         \
            x[i] = to;                                                                        \
        }                                                                                     \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE
