// cuBLASLt by its documentation: matrices in columns, the table of types that go together, a bias of the
// output's type along its rows, GELU by tanh, sums in two parts that are rounded to the output's type where that is not
// ruled out. 8-bit floats (e4m3) as cards from Ada on have them: the left matrix
// transposed, the right one not, everything at multiples of 16 bytes, a bias of bf16, and from 12.9 on, by cards of 9.0
// alone, a factor for each row and column of the result.
#include "queue.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK, ALLOC_FAILED = 3, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { F32 = 0, BF16 = 14, E4M3 = 28, COMPUTE_F32 = 68 };
enum { OUTER_VECTORS = 3 };
enum { GELU = 32, BIAS = 4, PLAIN = 1 };
enum { IN_PLACE = 1, OF_OUTPUT_TYPE = 4, ANY_PARTS = 7 };
enum { CHOSEN = 0x5eed };

typedef struct {
    int transposed_a, transposed_b, epilogue, bias_type, mode_a, mode_b;
    const void *bias, *factors_a, *factors_b;
} Desc;
typedef struct { int type; uint64_t rows, columns; int64_t ld; } Layout;
typedef struct { size_t workspace; uint32_t aligned[4], parts; } Preference;
typedef struct { uint64_t data[8]; } Algorithm;
typedef struct { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; } Result;

size_t cublasLtGetVersion(void) {
    const char *version = getenv("STAND_IN_CUBLASLT_VERSION");
    return version ? (size_t)atoi(version) : 120901;
}
static int lacks(const char *call) {
    const char *what = getenv("STAND_IN_NO_MEMORY_FOR");
    return what && !strcmp(what, call);
}
int cublasLtCreate(void **handle) {
    if (lacks("cublasLtCreate")) return ALLOC_FAILED;
    return *handle = malloc(1), OK;
}
int cublasLtDestroy(void *handle) { return free(handle), OK; }

int cublasLtMatmulDescCreate(Desc **desc, int compute, int scale) {
    if (compute != COMPUTE_F32 || scale != F32) return NOT_SUPPORTED;
    *desc = calloc(1, sizeof(Desc));
    (*desc)->epilogue = PLAIN;
    (*desc)->bias_type = -1;
    return OK;
}
int cublasLtMatmulDescDestroy(Desc *desc) { return free(desc), OK; }
int cublasLtMatmulDescSetAttribute(Desc *desc, int what, const void *value, size_t bytes) {
    void *to = what == 3 ? (void *)&desc->transposed_a : what == 4 ? (void *)&desc->transposed_b
             : what == 7 ? (void *)&desc->epilogue : what == 8 ? (void *)&desc->bias
             : what == 17 ? (void *)&desc->factors_a : what == 18 ? (void *)&desc->factors_b
             : what == 26 ? (void *)&desc->bias_type : NULL;
    // It came with 12.9, and nothing before may be asked for it.
    if ((what == 31 || what == 32) && cublasLtGetVersion() >= 120900)
        to = what == 31 ? &desc->mode_a : &desc->mode_b;
    int pointer = what == 8 || what == 17 || what == 18;
    if (!to || bytes != (pointer ? 8 : 4)) return INVALID_VALUE;
    return memcpy(to, value, bytes), OK;
}
int cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    *layout = malloc(sizeof(Layout));
    **layout = (Layout){type, rows, columns, ld};
    return ld >= (int64_t)rows ? OK : INVALID_VALUE;
}
int cublasLtMatrixLayoutDestroy(Layout *layout) { return free(layout), OK; }
int cublasLtMatmulPreferenceCreate(Preference **preference) {
    *preference = calloc(1, sizeof(Preference));
    return (*preference)->parts = ANY_PARTS, OK;
}
int cublasLtMatmulPreferenceDestroy(Preference *preference) { return free(preference), OK; }
int cublasLtMatmulPreferenceSetAttribute(Preference *preference, int what, const void *value, size_t bytes) {
    void *to = what == 1 ? (void *)&preference->workspace : what == 3 ? (void *)&preference->parts
             : what >= 5 && what <= 8 ? (void *)&preference->aligned[what - 5] : NULL;
    if (!to || bytes != (what == 1 ? 8 : 4)) return INVALID_VALUE;
    return memcpy(to, value, bytes), OK;
}

static int shapes(const Desc *desc, const Layout *a, const Layout *b, const Layout *c, const Layout *d,
                  uint64_t *m, uint64_t *n, uint64_t *k) {
    *m = desc->transposed_a ? a->columns : a->rows;
    *k = desc->transposed_a ? a->rows : a->columns;
    *n = desc->transposed_b ? b->rows : b->columns;
    uint64_t other = desc->transposed_b ? b->columns : b->rows;
    if (other != *k || d->rows != *m || d->columns != *n || c->rows != *m || c->columns != *n)
        return INVALID_VALUE;
    int narrow = a->type == BF16 && (d->type == BF16 || d->type == F32);
    int plain = a->type == F32 && d->type == F32;
    int codes = a->type == E4M3 && (d->type == BF16 || d->type == F32);
    if (codes) {
        // Both matrices have factors, or none.
        int modes = desc->mode_a == desc->mode_b && (desc->mode_a == 0 || desc->mode_a == OUTER_VECTORS);
        int whole = *m % 16 == 0 && *k % 16 == 0;
        int known = stand_in_capability() >= 89 && (!desc->mode_a || stand_in_capability() == 90);
        if (!known || !modes || !whole || !desc->transposed_a || desc->transposed_b) return NOT_SUPPORTED;
        if ((desc->epilogue & BIAS) && d->type == F32 && desc->bias_type != BF16) return NOT_SUPPORTED;
        if ((desc->mode_a == OUTER_VECTORS) != (desc->factors_a && desc->factors_b)) return INVALID_VALUE;
    }
    return a->type == b->type && c->type == d->type && (narrow || plain || codes) ? OK : NOT_SUPPORTED;
}

static size_t size_of(int type) { return type == F32 ? 4 : type == E4M3 ? 1 : 2; }
static int bias_type(const Desc *desc, const Layout *d) { return desc->bias_type < 0 ? d->type : desc->bias_type; }

int cublasLtMatmulAlgoGetHeuristic(void *handle, const Desc *desc, const Layout *a, const Layout *b,
                                   const Layout *c, const Layout *d, const Preference *preference,
                                   int wanted, Result *results, int *count) {
    uint64_t m, n, k;
    int status = shapes(desc, a, b, c, d, &m, &n, &k);
    *count = 0;
    if (status || !handle || wanted < 1) return status ? status : INVALID_VALUE;
    for (int i = 0; i < 4; i++)
        if (!preference->aligned[i]) return INVALID_VALUE;
    memset(results, 0, sizeof(Result));
    results->algorithm.data[0] = CHOSEN;
    results->algorithm.data[1] = preference->parts & (IN_PLACE | OF_OUTPUT_TYPE);
    results->workspace = preference->workspace;
    *count = 1;
    return OK;
}

typedef struct {
    Desc desc;
    Layout la, lb, ld;
    const void *a, *b, *c;
    void *d;
    uint64_t m, n, k;
    float alpha, beta;
    int rounds_parts;
} Product;

static float get(int type, const void *values, uint64_t at) {
    if (type == F32) return ((const float *)values)[at];
    if (type == E4M3) {
        int code = ((const uint8_t *)values)[at], exponent = code >> 3 & 15, mantissa = code & 7;
        if ((code & 127) == 127) return NAN;
        float size = exponent ? ldexpf(8 + mantissa, exponent - 10) : ldexpf(mantissa, -9);
        return code & 128 ? -size : size;
    }
    uint32_t bits = (uint32_t)((const uint16_t *)values)[at] << 16;
    float value;
    return memcpy(&value, &bits, 4), value;
}
static void set(int type, void *values, uint64_t at, float value) {
    if (type == F32) {
        ((float *)values)[at] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    ((uint16_t *)values)[at] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static float rounded(int type, float value) {
    float held;
    set(type, &held, 0, value);
    return get(type, &held, 0);
}

static void multiply(void *what) {
    const Product *p = what;
    for (uint64_t j = 0; j < p->n; j++)
        for (uint64_t i = 0; i < p->m; i++) {
            float sum = 0;
            for (uint64_t l = 0; l < p->k; l++) {
                if (p->rounds_parts && l == p->k / 2) sum = rounded(p->ld.type, sum);
                uint64_t at_a = p->desc.transposed_a ? l + i * p->la.ld : i + l * p->la.ld;
                uint64_t at_b = p->desc.transposed_b ? j + l * p->lb.ld : l + j * p->lb.ld;
                sum += get(p->la.type, p->a, at_a) * get(p->lb.type, p->b, at_b);
            }
            uint64_t at = i + j * p->ld.ld;
            sum *= p->alpha;
            if (p->desc.mode_a == OUTER_VECTORS)
                sum *= ((const float *)p->desc.factors_a)[i] * ((const float *)p->desc.factors_b)[j];
            if (p->beta != 0) sum += p->beta * get(p->ld.type, p->c, at);
            if (p->desc.epilogue & BIAS) sum += get(bias_type(&p->desc, &p->ld), p->desc.bias, i);
            if (p->desc.epilogue & GELU)
                sum = 0.5f * sum * (1 + tanhf(0.7978845608f * (sum + 0.044715f * sum * sum * sum)));
            set(p->ld.type, p->d, at, sum);
        }
}

int cublasLtMatmul(void *handle, const Desc *desc, const float *alpha, const void *a, const Layout *la,
                   const void *b, const Layout *lb, const float *beta, const void *c, const Layout *lc,
                   void *d, const Layout *ld, const Algorithm *algorithm, void *workspace,
                   size_t workspace_bytes, void *stream) {
    if (lacks("cublasLtMatmul")) return ALLOC_FAILED;
    Product p = {*desc, *la, *lb, *ld, a, b, c, d, 0, 0, 0, *alpha, *beta, algorithm->data[1] != 0};
    int status = shapes(desc, la, lb, lc, ld, &p.m, &p.n, &p.k);
    if (status) return status;
    size_t of = size_of(la->type), out = size_of(ld->type), bias = size_of(bias_type(desc, ld));
    int reaches = stand_in_has((uintptr_t)a, of * la->ld * la->columns) &&
                  stand_in_has((uintptr_t)b, of * lb->ld * lb->columns) &&
                  stand_in_has((uintptr_t)d, out * ld->ld * ld->columns) &&
                  stand_in_has((uintptr_t)workspace, workspace_bytes) &&
                  (!(desc->epilogue & BIAS) || stand_in_has((uintptr_t)desc->bias, bias * p.m)) &&
                  (desc->mode_a != OUTER_VECTORS || (stand_in_has((uintptr_t)desc->factors_a, 4 * p.m) &&
                                                     stand_in_has((uintptr_t)desc->factors_b, 4 * p.n)));
    if (la->type == E4M3 && ((uintptr_t)a | (uintptr_t)b | (uintptr_t)d) % 16) return NOT_SUPPORTED;
    if (!handle || algorithm->data[0] != CHOSEN || !reaches) return INVALID_VALUE;
    return stand_in_ask(stream, multiply, &p, sizeof p) ? 13 : OK;
}
