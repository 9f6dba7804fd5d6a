// cuDNN's backend API by its documentation, with two kinds of graphs: softmax attention of bf16 tensors in rows, and
// convolutions of bf16 tensors whose channels come last, to which a tensor and then a bias may be added.
// Descriptors keep what they are told; a finalised one takes nothing more, and what an operation graph, a
// query of heuristics, a plan and a variant pack have to have is asked for when they are finalised. The
// handle has to be the card's own, and the scale is read when the plan is started. Who asks for ways where the linker
// does not know the cuBLASLt of its CUDA by name ends the process, as 9.28 does.
#include "queue.h"

#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, NOT_INITIALIZED = 1001, BAD_PARAM = 2000, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000 };
enum { POINTWISE = 0, CONVOLUTION = 1, ENGINE = 2, ENGINECFG = 3, ENGINEHEUR = 4, PLAN = 5, CONVOLVE = 10, ADD = 13 };
enum { GRAPH = 15, PACK = 16, TENSOR = 17, SDPA = 41 };
enum { HANDLE, DATA_TYPE, BOOLEAN, INT64, FLOAT, VOID_PTR = 6, CONVOLUTION_MODE = 7, HEUR_MODE = 8 };
enum { NUMERICAL_NOTE = 11, POINTWISE_MODE = 14, DESCRIPTOR = 15 };
enum { ATTRIBUTES = 12, F32 = 0, BF16 = 9, WORKSPACE = 256, CHOSEN = 7 };

typedef struct Desc Desc;
typedef struct { int name, type; int64_t count; void *values; } Attribute;
// Of a plan its kernel knows whether it is `gone`.
struct Desc { int sort, finalised, count, *gone; Attribute attributes[ATTRIBUTES]; };
typedef struct { void *stream; } Handle;

static const char *said = "";
// Of all handles together: tests have theirs side by side.
static int handles, descriptors;
static int count(int *what, int more) { return __atomic_add_fetch(what, more, __ATOMIC_SEQ_CST); }
static int fail(int status, const char *words) { return said = words, status; }

size_t cudnnGetVersion(void) {
    const char *version = getenv("STAND_IN_CUDNN_VERSION");
    return version ? (size_t)atol(version) : 92800;
}
size_t cudnnGetCudartVersion(void) {
    const char *version = getenv("STAND_IN_CUDNN_CUDA");
    return version ? (size_t)atol(version) : CUDA;
}
const char *cudnnGetErrorString(int status) {
    return status == NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED"
         : status == BAD_PARAM     ? "CUDNN_STATUS_BAD_PARAM"
                                   : "another status";
}
void cudnnGetLastErrorString(char *text, size_t bytes) { snprintf(text, bytes, "%s", said); }
int cudnnCreate(Handle **handle) {
    count(&handles, 1);
    return *handle = calloc(1, sizeof(Handle)), OK;
}
int cudnnDestroy(Handle *handle) {
    if (count(&handles, -1) == 0 && descriptors) fprintf(stderr, "LEFT BEHIND: %d descriptors\n", descriptors);
    return free(handle), OK;
}
int cudnnSetStream(Handle *handle, void *stream) { return handle->stream = stream, OK; }

static size_t size_of(int type) {
    switch (type) {
    case DATA_TYPE: case HEUR_MODE: case NUMERICAL_NOTE: case FLOAT: case CONVOLUTION_MODE: case POINTWISE_MODE:
        return 4;
    case BOOLEAN: return 1;
    default: return 8;
    }
}

int cudnnBackendCreateDescriptor(int sort, Desc **made) {
    count(&descriptors, 1);
    *made = calloc(1, sizeof(Desc));
    (*made)->sort = sort;
    (*made)->gone = calloc(1, sizeof(int));
    return OK;
}
int cudnnBackendDestroyDescriptor(Desc *desc) {
    count(&descriptors, -1);
    *desc->gone = 1;
    for (int n = 0; n < desc->count; n++) free(desc->attributes[n].values);
    return free(desc), OK;
}
// Descriptors within others are counted references in the real library; copies whose values are leaked here.
static Desc *copy_of(const Desc *desc) {
    Desc *copy = malloc(sizeof(Desc));
    *copy = *desc;
    for (int n = 0; n < copy->count; n++) {
        Attribute *a = &copy->attributes[n];
        size_t bytes = a->count * size_of(a->type);
        a->values = memcpy(malloc(bytes + 1), a->values, bytes);
        for (int64_t part = 0; a->type == DESCRIPTOR && part < a->count; part++)
            ((Desc **)a->values)[part] = copy_of(((Desc **)a->values)[part]);
    }
    return copy;
}
int cudnnBackendSetAttribute(Desc *desc, int name, int type, int64_t count, const void *values) {
    if (desc->finalised || count < 1 || desc->count == ATTRIBUTES) return fail(BAD_PARAM, "set too late");
    Attribute *a = &desc->attributes[desc->count++];
    size_t bytes = count * size_of(type);
    *a = (Attribute){name, type, count, memcpy(malloc(bytes + 1), values, bytes)};
    for (int64_t n = 0; type == DESCRIPTOR && n < count; n++) {
        const Desc *part = ((Desc *const *)values)[n];
        if (!part->finalised) return fail(BAD_PARAM, "a part that is not finalised");
        ((Desc **)a->values)[n] = copy_of(part);
    }
    return OK;
}
// The values of an attribute of this type, or NULL.
static void *value(const Desc *desc, int name, int type, int64_t count) {
    for (int n = 0; desc && n < desc->count; n++) {
        const Attribute *a = &desc->attributes[n];
        if (a->name == name && a->type == type && (!count || a->count == count)) return a->values;
    }
    return NULL;
}
static int64_t count_of(const Desc *desc, int name) {
    for (int n = 0; desc && n < desc->count; n++)
        if (desc->attributes[n].name == name) return desc->attributes[n].count;
    return 0;
}
static Desc *part(const Desc *desc, int name) {
    Desc **found = value(desc, name, DESCRIPTOR, 1);
    return found ? *found : NULL;
}

typedef struct { int64_t heads, size, queries, keys; } Shape;

// Whether a tensor is [1][heads][rows][size] in rows of heads * size values of bf16, given by its address.
static int is_rows(const Desc *tensor, int64_t heads, int64_t rows, int64_t size) {
    const int64_t *dims = value(tensor, 902, INT64, 4), *strides = value(tensor, 903, INT64, 4);
    const int *type = value(tensor, 901, DATA_TYPE, 1);
    const int64_t *align = value(tensor, 900, INT64, 1);
    const char *by_value = value(tensor, 908, BOOLEAN, 1), *within = value(tensor, 907, BOOLEAN, 1);
    return !(within && *within) && dims && strides && type && *type == BF16 && align && *align == 16 && by_value && !*by_value &&
           value(tensor, 906, INT64, 1) && dims[0] == 1 && dims[1] == heads && dims[2] == rows &&
           dims[3] == size && strides[1] == size && strides[2] == heads * size && strides[3] == 1;
}
static int shape_of(const Desc *graph, Shape *shape) {
    Desc *sdpa = part(graph, 801), *q = part(sdpa, 2800), *k = part(sdpa, 2801), *scale = part(sdpa, 2805);
    const int64_t *dims = value(q, 902, INT64, 4), *key_dims = value(k, 902, INT64, 4);
    const int *type = value(scale, 901, DATA_TYPE, 1);
    const char *by_value = value(scale, 908, BOOLEAN, 1);
    if (!dims || !key_dims || !type || *type != F32 || !by_value || !*by_value) return 0;
    *shape = (Shape){dims[1], dims[3], dims[2], key_dims[2]};
    return is_rows(q, shape->heads, shape->queries, shape->size) &&
           is_rows(k, shape->heads, shape->keys, shape->size) &&
           is_rows(part(sdpa, 2802), shape->heads, shape->keys, shape->size) &&
           is_rows(part(sdpa, 2803), shape->heads, shape->queries, shape->size);
}

enum { AXES = 5 };
// A tensor of lengths and distances [batch][channels][...]; `id` is 0 where there is none.
typedef struct { int64_t id, axes, dims[AXES], strides[AXES]; } Tensor;
typedef struct {
    Tensor x, weight, bias, added, out;
    int64_t before[AXES], step[AXES];
    const uint16_t *from, *weights, *biases, *terms;
    uint16_t *to;
} Convolution;

// Whether a tensor has so many axes, is of this type, and is between two operations or in memory.
static int tensor_of(const Desc *desc, int64_t axes, int type, int within, Tensor *tensor) {
    const int64_t *dims = value(desc, 902, INT64, axes), *strides = value(desc, 903, INT64, axes);
    const int64_t *id = value(desc, 906, INT64, 1), *align = value(desc, 900, INT64, 1);
    const int *of = value(desc, 901, DATA_TYPE, 1);
    const char *by_value = value(desc, 908, BOOLEAN, 1), *is_within = value(desc, 907, BOOLEAN, 1);
    if (!dims || !strides || !id || *id <= 0 || !align || *align != 16 || !of || *of != type) return 0;
    if ((by_value && *by_value) || (is_within && *is_within) != within || axes > AXES) return 0;
    *tensor = (Tensor){.id = *id, .axes = axes};
    memcpy(tensor->dims, dims, axes * sizeof *dims);
    memcpy(tensor->strides, strides, axes * sizeof *strides);
    // Channels last, and nothing between the values.
    int64_t next = 1;
    for (int64_t n = 0; n < axes; n++) {
        int64_t axis = n == 0 ? 1 : n == axes - 1 ? 0 : axes - n;
        if (dims[axis] < 1 || strides[axis] != next) return 0;
        next *= dims[axis];
    }
    return 1;
}
static int64_t bytes_of(const Tensor *tensor) { return 2 * tensor->dims[0] * tensor->strides[0]; }
static int same_dims(const Tensor *a, const Tensor *b) {
    return a->axes == b->axes && !memcmp(a->dims, b->dims, a->axes * sizeof *a->dims);
}

static int convolution_of(const Desc *graph, Convolution *c) {
    Desc **operations = value(graph, 801, DESCRIPTOR, 0);
    const int64_t count = count_of(graph, 801);
    if (!operations || count > 3 || operations[0]->sort != CONVOLVE) return 0;
    const Desc *convolve = operations[0], *how = part(convolve, 702);
    const int64_t *spatial = value(how, 106, INT64, 1);
    if (!spatial || *spatial < 2 || *spatial > 3) return 0;
    const int64_t axes = *spatial + 2, *dilations = value(how, 102, INT64, *spatial);
    const int64_t *steps = value(how, 103, INT64, *spatial), *post = value(how, 104, INT64, *spatial);
    const int64_t *pre = value(how, 105, INT64, *spatial);
    const int *type = value(how, 100, DATA_TYPE, 1), *mode = value(how, 101, CONVOLUTION_MODE, 1);
    const float *alpha = value(convolve, 700, FLOAT, 1), *beta = value(convolve, 701, FLOAT, 1);
    if (!dilations || !steps || !post || !pre || !type || *type != F32 || !mode || *mode != 1) return 0;
    if (!alpha || *alpha != 1 || !beta || *beta != 0) return 0;
    if (!tensor_of(part(convolve, 704), axes, BF16, 0, &c->x)) return 0;
    if (!tensor_of(part(convolve, 703), axes, BF16, 0, &c->weight)) return 0;
    Tensor given;
    if (!tensor_of(part(convolve, 705), axes, count > 1 ? F32 : BF16, count > 1, &given)) return 0;
    if (given.dims[0] != c->x.dims[0] || given.dims[1] != c->weight.dims[0]) return 0;
    if (c->x.dims[1] != c->weight.dims[1]) return 0;
    for (int64_t n = 0; n < *spatial; n++) {
        int64_t room = c->x.dims[n + 2] + pre[n] + post[n] - c->weight.dims[n + 2];
        if (dilations[n] != 1 || steps[n] < 1 || room < 0 || given.dims[n + 2] != room / steps[n] + 1) return 0;
        c->before[n + 2] = pre[n], c->step[n + 2] = steps[n];
    }
    c->bias.id = c->added.id = 0;
    for (int64_t n = 1; n < count; n++) {
        const Desc *add = operations[n], *plus = part(add, 750), *term = part(add, 752);
        const int *which = value(plus, 0, POINTWISE_MODE, 1), *exact = value(plus, 1, DATA_TYPE, 1);
        Tensor before, second, after;
        if (add->sort != ADD || !which || *which != 0 || !exact || *exact != F32) return 0;
        if (!tensor_of(part(add, 751), axes, F32, 1, &before) || before.id != given.id) return 0;
        if (!same_dims(&before, &given) || !tensor_of(term, axes, BF16, 0, &second)) return 0;
        const int last = n == count - 1;
        if (!tensor_of(part(add, 753), axes, last ? BF16 : F32, !last, &after)) return 0;
        if (!same_dims(&after, &given)) return 0;
        if (same_dims(&second, &given) && !c->bias.id && !c->added.id) c->added = second;
        else if (second.dims[1] == given.dims[1] && bytes_of(&second) == 2 * second.dims[1] && !c->bias.id) c->bias = second;
        else return 0;
        given = after;
    }
    c->out = given;
    return 1;
}

int cudnnBackendFinalize(Desc *desc) {
    int64_t *ids = value(desc, 1000, INT64, 0);
    switch (desc->sort) {
    case GRAPH: {
        Shape shape;
        Convolution convolution;
        if (!value(desc, 800, HANDLE, 1)) return fail(BAD_PARAM, "a graph without a handle");
        if (convolution_of(desc, &convolution)) {
            if (convolution.x.dims[1] % 8 || convolution.weight.dims[0] % 8)
                return fail(NOT_SUPPORTED, "channels of a multiple of 8");
            break;
        }
        if (!shape_of(desc, &shape)) return fail(NOT_SUPPORTED, "no such graph");
        if (shape.size % 8) return fail(NOT_SUPPORTED, "heads of a multiple of 8");
        break;
    }
    case ENGINEHEUR: {
        int *mode = value(desc, 200, HEUR_MODE, 1);
        if (!part(desc, 201) || !mode || *mode != 3) return fail(BAD_PARAM, "heuristics of what?");
        char cublaslt[32];
        snprintf(cublaslt, sizeof cublaslt, "libcublasLt.so.%d", (int)(cudnnGetCudartVersion() / 1000));
        if (!dlopen(cublaslt, RTLD_LAZY)) {
            fprintf(stderr, "Invalid handle. Cannot load symbol cublasLtGetVersion\n");
            abort();
        }
        break;
    }
    case PLAN:
        if (!part(desc, 401) || !value(desc, 400, HANDLE, 1)) return fail(BAD_PARAM, "a plan of what?");
        break;
    case PACK:
        if (!ids || !value(desc, 1001, VOID_PTR, count_of(desc, 1000)) || !value(desc, 1003, VOID_PTR, 1))
            return fail(BAD_PARAM, "a variant pack without tensors or workspace");
        break;
    }
    desc->finalised = 1;
    return OK;
}

int cudnnBackendGetAttribute(Desc *desc, int name, int type, int64_t wanted, int64_t *count, void *values) {
    if (wanted < 1) return BAD_PARAM;
    *count = 1;
    Desc **parts = values;
    if (desc->sort == ENGINEHEUR && name == 202 && type == DESCRIPTOR) {
        // Two ways: the first may be different each time.
        *count = wanted < 2 ? wanted : 2;
        for (int64_t n = 0; n < *count; n++) {
            cudnnBackendSetAttribute(parts[n], 201, DESCRIPTOR, 1, value(desc, 201, DESCRIPTOR, 1));
            cudnnBackendSetAttribute(parts[n], 9000, INT64, 1, &n);
            parts[n]->finalised = 1;
        }
        return OK;
    }
    if (desc->sort == ENGINECFG && name == 300 && type == DESCRIPTOR) {
        cudnnBackendSetAttribute(parts[0], 9000, INT64, 1, value(desc, 9000, INT64, 1));
        return parts[0]->finalised = 1, OK;
    }
    if (desc->sort == ENGINE && name == 1303 && type == NUMERICAL_NOTE) {
        int64_t way = *(int64_t *)value(desc, 9000, INT64, 1);
        *(int *)values = way ? 0 : 4;
        return OK;
    }
    if (desc->sort == ENGINE && name == 1301 && type == INT64) return *(int64_t *)values = CHOSEN, OK;
    if (desc->sort == PLAN && name == 402 && type == INT64) return *(int64_t *)values = WORKSPACE, OK;
    return fail(NOT_SUPPORTED, "no such attribute");
}

typedef struct { Shape shape; const uint16_t *q, *k, *v; uint16_t *out; float scale; const int *gone; } Attention;

static float get(const uint16_t *values, int64_t at) {
    uint32_t bits = (uint32_t)values[at] << 16;
    float value;
    return memcpy(&value, &bits, 4), value;
}
static uint16_t rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static void attend(void *what) {
    const Attention *a = what;
    if (*a->gone) fprintf(stderr, "PLAN IS GONE: its kernel is at work\n");
    const int64_t row = a->shape.heads * a->shape.size, size = a->shape.size;
    float *weights = malloc(a->shape.keys * sizeof(float));
    for (int64_t query = 0; query < a->shape.queries; query++)
        for (int64_t head = 0; head < a->shape.heads; head++) {
            float most = -INFINITY, sum = 0;
            for (int64_t key = 0; key < a->shape.keys; key++) {
                float score = 0;
                for (int64_t n = head * size; n < (head + 1) * size; n++)
                    score += get(a->q, query * row + n) * get(a->k, key * row + n);
                weights[key] = score * a->scale;
                most = fmaxf(most, weights[key]);
            }
            for (int64_t key = 0; key < a->shape.keys; key++) sum += weights[key] = expf(weights[key] - most);
            for (int64_t n = head * size; n < (head + 1) * size; n++) {
                float value = 0;
                for (int64_t key = 0; key < a->shape.keys; key++)
                    value += weights[key] / sum * get(a->v, key * row + n);
                a->out[query * row + n] = rounded(value);
            }
        }
    free(weights);
}


static void convolve(void *what) {
    const Convolution *c = what;
    const int64_t axes = c->out.axes, values = c->out.dims[0] * c->out.strides[0];
    for (int64_t n = 0; n < values; n++) {
        // In the order of memory.
        int64_t place[AXES], rest = n, taps = 1;
        for (int64_t axis = 2; axis < axes; axis++) taps *= c->weight.dims[axis];
        place[0] = rest / c->out.strides[0], rest %= c->out.strides[0];
        for (int64_t axis = 2; axis < axes; axis++)
            place[axis] = rest / c->out.strides[axis], rest %= c->out.strides[axis];
        place[1] = rest;
        float sum = 0;
        for (int64_t tap = 0; tap < taps; tap++) {
            int64_t left = tap, from = place[0] * c->x.strides[0], weight = place[1] * c->weight.strides[0];
            int inside = 1;
            for (int64_t axis = axes - 1; axis >= 2; axis--) {
                const int64_t at = left % c->weight.dims[axis];
                const int64_t to = place[axis] * c->step[axis] + at - c->before[axis];
                left /= c->weight.dims[axis];
                inside &= to >= 0 && to < c->x.dims[axis];
                from += to * c->x.strides[axis], weight += at * c->weight.strides[axis];
            }
            for (int64_t i = 0; inside && i < c->x.dims[1]; i++)
                sum += get(c->from, from + i * c->x.strides[1]) * get(c->weights, weight + i * c->weight.strides[1]);
        }
        if (c->terms) sum += get(c->terms, n);
        if (c->biases) sum += get(c->biases, place[1]);
        c->to[n] = rounded(sum);
    }
}
// The address that a variant pack has for a tensor, if it has all of it.
static void *place_of(const Desc *pack, const Tensor *tensor) {
    const int64_t *ids = value(pack, 1000, INT64, 0), count = count_of(pack, 1000);
    void **pointers = value(pack, 1001, VOID_PTR, count);
    for (int64_t n = 0; n < count; n++)
        if (ids[n] == tensor->id && stand_in_has((uintptr_t)pointers[n], bytes_of(tensor))) return pointers[n];
    return NULL;
}

int cudnnBackendExecute(Handle *handle, const Desc *plan, const Desc *pack) {
    if (!plan->finalised || !pack->finalised) return fail(BAD_PARAM, "not finalised");
    if (getenv("STAND_IN_CUDNN_FAILS")) return fail(EXECUTION_FAILED, "as it was asked to");
    const Desc *graph = part(part(plan, 401), 201), *sdpa = part(graph, 801);
    Handle **own[2] = {value(plan, 400, HANDLE, 1), value(graph, 800, HANDLE, 1)};
    if (*own[0] != handle || *own[1] != handle) return fail(BAD_PARAM, "another handle");
    Convolution c = {0};
    if (convolution_of(graph, &c)) {
        void **beside = value(pack, 1003, VOID_PTR, 1);
        c.from = place_of(pack, &c.x), c.weights = place_of(pack, &c.weight), c.to = place_of(pack, &c.out);
        if (c.bias.id && !(c.biases = place_of(pack, &c.bias))) return fail(BAD_PARAM, "no bias");
        if (c.added.id && !(c.terms = place_of(pack, &c.added))) return fail(BAD_PARAM, "nothing to add");
        if (!c.from || !c.weights || !c.to || !stand_in_has((uintptr_t)*beside, WORKSPACE))
            return fail(BAD_PARAM, "an address outside of the card's memory");
        if (c.terms == c.to) return fail(BAD_PARAM, "one tensor for two");
        return stand_in_ask(handle->stream, convolve, &c, sizeof c) ? EXECUTION_FAILED : OK;
    }
    const int64_t *ids = value(pack, 1000, INT64, 5);
    void **pointers = value(pack, 1001, VOID_PTR, 5), **workspace = value(pack, 1003, VOID_PTR, 1);
    void *found[5] = {0};
    // The tensors by their own numbers: q, k, v, the result, the scale.
    const int names[5] = {2800, 2801, 2802, 2803, 2805};
    for (int n = 0; n < 5; n++)
        for (int at = 0; at < 5; at++)
            if (ids[at] == *(int64_t *)value(part(sdpa, names[n]), 906, INT64, 1)) found[n] = pointers[at];
    Attention a = {.gone = plan->gone, .q = found[0], .k = found[1], .v = found[2], .out = found[3]};
    if (!shape_of(graph, &a.shape) || !found[4]) return fail(BAD_PARAM, "tensors are missing");
    a.scale = *(float *)found[4];
    size_t row = a.shape.heads * a.shape.size * 2;
    int reaches = stand_in_has((uintptr_t)a.q, row * a.shape.queries) &&
                  stand_in_has((uintptr_t)a.k, row * a.shape.keys) &&
                  stand_in_has((uintptr_t)a.v, row * a.shape.keys) &&
                  stand_in_has((uintptr_t)a.out, row * a.shape.queries) &&
                  stand_in_has((uintptr_t)*workspace, WORKSPACE);
    if (!reaches) return fail(BAD_PARAM, "an address outside of the card's memory");
    return stand_in_ask(handle->stream, attend, &a, sizeof a) ? EXECUTION_FAILED : OK;
}
