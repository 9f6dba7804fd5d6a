// cuBLASLt by its documentation: matrices in columns, the table of types that go together, a bias of the
// output's type along its rows, GELU by tanh.
#include "queue.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { F32 = 0, BF16 = 14, COMPUTE_F32 = 68 };
enum { GELU = 32, BIAS = 4, PLAIN = 1 };
enum { CHOSEN = 0x5eed };

typedef struct { int transposed_a, transposed_b, epilogue; const void *bias; } Desc;
typedef struct { int type; uint64_t rows, columns; int64_t ld; } Layout;
typedef struct { size_t workspace; uint32_t aligned[4]; } Preference;
typedef struct { uint64_t data[8]; } Algorithm;
typedef struct { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; } Result;

size_t cublasLtGetVersion(void) { return 120901; }
int cublasLtCreate(void **handle) { return *handle = malloc(1), OK; }
int cublasLtDestroy(void *handle) { return free(handle), OK; }

int cublasLtMatmulDescCreate(Desc **desc, int compute, int scale) {
    if (compute != COMPUTE_F32 || scale != F32) return NOT_SUPPORTED;
    *desc = calloc(1, sizeof(Desc));
    (*desc)->epilogue = PLAIN;
    return OK;
}
int cublasLtMatmulDescDestroy(Desc *desc) { return free(desc), OK; }
int cublasLtMatmulDescSetAttribute(Desc *desc, int what, const void *value, size_t bytes) {
    void *to = what == 3 ? (void *)&desc->transposed_a : what == 4 ? (void *)&desc->transposed_b
             : what == 7 ? (void *)&desc->epilogue : what == 8 ? (void *)&desc->bias : NULL;
    if (!to || bytes != (what == 8 ? 8 : 4)) return INVALID_VALUE;
    return memcpy(to, value, bytes), OK;
}
int cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    *layout = malloc(sizeof(Layout));
    **layout = (Layout){type, rows, columns, ld};
    return ld >= (int64_t)rows ? OK : INVALID_VALUE;
}
int cublasLtMatrixLayoutDestroy(Layout *layout) { return free(layout), OK; }
int cublasLtMatmulPreferenceCreate(Preference **preference) {
    return *preference = calloc(1, sizeof(Preference)), OK;
}
int cublasLtMatmulPreferenceDestroy(Preference *preference) { return free(preference), OK; }
int cublasLtMatmulPreferenceSetAttribute(Preference *preference, int what, const void *value, size_t bytes) {
    void *to = what == 1 ? (void *)&preference->workspace
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
    return a->type == b->type && c->type == d->type && (narrow || plain) ? OK : NOT_SUPPORTED;
}

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
} Product;

static float get(int type, const void *values, uint64_t at) {
    if (type == F32) return ((const float *)values)[at];
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

static void multiply(void *what) {
    const Product *p = what;
    for (uint64_t j = 0; j < p->n; j++)
        for (uint64_t i = 0; i < p->m; i++) {
            float sum = 0;
            for (uint64_t l = 0; l < p->k; l++) {
                uint64_t at_a = p->desc.transposed_a ? l + i * p->la.ld : i + l * p->la.ld;
                uint64_t at_b = p->desc.transposed_b ? j + l * p->lb.ld : l + j * p->lb.ld;
                sum += get(p->la.type, p->a, at_a) * get(p->lb.type, p->b, at_b);
            }
            uint64_t at = i + j * p->ld.ld;
            sum *= p->alpha;
            if (p->beta != 0) sum += p->beta * get(p->ld.type, p->c, at);
            if (p->desc.epilogue & BIAS) sum += get(p->ld.type, p->desc.bias, i);
            if (p->desc.epilogue & GELU)
                sum = 0.5f * sum * (1 + tanhf(0.7978845608f * (sum + 0.044715f * sum * sum * sum)));
            set(p->ld.type, p->d, at, sum);
        }
}

int cublasLtMatmul(void *handle, const Desc *desc, const float *alpha, const void *a, const Layout *la,
                   const void *b, const Layout *lb, const float *beta, const void *c, const Layout *lc,
                   void *d, const Layout *ld, const Algorithm *algorithm, void *workspace,
                   size_t workspace_bytes, void *stream) {
    Product p = {*desc, *la, *lb, *ld, a, b, c, d, 0, 0, 0, *alpha, *beta};
    int status = shapes(desc, la, lb, lc, ld, &p.m, &p.n, &p.k);
    if (status) return status;
    size_t of = la->type == F32 ? 4 : 2, out = ld->type == F32 ? 4 : 2;
    int reaches = stand_in_has((uintptr_t)a, of * la->ld * la->columns) &&
                  stand_in_has((uintptr_t)b, of * lb->ld * lb->columns) &&
                  stand_in_has((uintptr_t)d, out * ld->ld * ld->columns) &&
                  stand_in_has((uintptr_t)workspace, workspace_bytes) &&
                  (!(desc->epilogue & BIAS) || stand_in_has((uintptr_t)desc->bias, out * p.m));
    if (!handle || algorithm->data[0] != CHOSEN || !reaches) return INVALID_VALUE;
    return stand_in_ask(stream, multiply, &p, sizeof p) ? 13 : OK;
}
