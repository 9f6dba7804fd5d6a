// A driver of a card that is not there. It keeps to the order that CUDA promises and to nothing more: what
// a stream is asked for is done when somebody waits for it and not before, memory of the program is read
// at that time, and calls are refused as they are by the real one: without a context, outside of the
// card's memory, with more shared memory than was asked for.
#define _GNU_SOURCE
#include "queue.h"

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, INVALID_VALUE, OUT_OF_MEMORY, NO_CONTEXT = 201, NOT_FOUND = 500 };
enum { MOST = 1 << 16, ARGUMENTS = 48 };
#define TOTAL ((size_t)24 << 30)
#define SHARED_PLAIN (48 << 10)
#define SHARED_MOST (163 << 10)

typedef struct { Work work; void *what; } Item;
typedef struct { Item *items; size_t done, count; } Queue;
typedef struct { Queue *queue; size_t at; } Event;
typedef struct { char name[64]; unsigned shared; } Function;
typedef struct { unsigned long long start; size_t bytes; } Piece;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static __thread int has_context;
static Piece pieces[MOST];
static size_t piece_count, taken;
static Queue *queues[8];
static int retained, streams, events, modules, pinned;

#define ENTER                                  \
    if (!has_context) return NO_CONTEXT;       \
    pthread_mutex_lock(&mutex)
#define LEAVE(status)                          \
    do {                                       \
        int result = (status);                 \
        pthread_mutex_unlock(&mutex);          \
        return result;                         \
    } while (0)

static void run(Queue *queue, size_t until) {
    while (queue->done < until) {
        Item item = queue->items[queue->done++];
        item.work(item.what);
        free(item.what);
    }
}

static void run_all(void) {
    for (int n = 0; n < 8; n++)
        if (queues[n]) run(queues[n], queues[n]->count);
}

static int ask(Queue *queue, Work work, const void *what, size_t bytes) {
    if (!queue) return INVALID_VALUE;
    queue->items = realloc(queue->items, (queue->count + 1) * sizeof(Item));
    Item item = {work, malloc(bytes)};
    memcpy(item.what, what, bytes);
    queue->items[queue->count++] = item;
    return OK;
}

int stand_in_ask(void *stream, Work work, const void *what, size_t bytes) {
    ENTER;
    LEAVE(ask(stream, work, what, bytes));
}

int stand_in_has(unsigned long long address, size_t bytes) {
    for (size_t n = 0; n < piece_count; n++)
        if (address >= pieces[n].start && address - pieces[n].start + bytes <= pieces[n].bytes) return 1;
    return 0;
}

int cuInit(unsigned flags) {
    const char *status = getenv("STAND_IN_CUINIT");
    return flags ? INVALID_VALUE : status ? atoi(status) : OK;
}
int cuDriverGetVersion(int *version) { return *version = CUDA, OK; }
// NVRTC asks for tables of functions that are in no header, and does without.
int cuGetExportTable(const void **table, const void *which) { return *table = NULL, which ? NOT_FOUND : INVALID_VALUE; }
int cuGetErrorName(unsigned status, const char **name) {
    *name = status == INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE" : NULL;
    return *name ? OK : INVALID_VALUE;
}
int cuGetErrorString(unsigned status, const char **text) {
    *text = status == INVALID_VALUE ? "invalid argument" : NULL;
    return *text ? OK : INVALID_VALUE;
}

int cuDeviceGetCount(int *count) { return *count = 1, OK; }
int cuDeviceGet(int *device, int ordinal) {
    if (ordinal != 0) return 101;
    return *device = 0, OK;
}
int cuDeviceGetName(char *name, int bytes, int device) {
    return device ? 101 : (snprintf(name, bytes, "a card that is not there"), OK);
}
int cuDeviceGetPCIBusId(char *name, int bytes, int device) {
    return device ? 101 : (snprintf(name, bytes, "0000:00:00.0"), OK);
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return device ? 101 : (*bytes = TOTAL, OK); }
int cuDeviceGetAttribute(int *value, int which, int device) {
    switch (which) {
    case 13: *value = 1410000; break;
    case 16: *value = 108; break;
    case 75: *value = 8; break;
    case 76: *value = 0; break;
    default: return INVALID_VALUE;
    }
    return device ? 101 : OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    pthread_mutex_lock(&mutex);
    retained++;
    *context = &retained;
    LEAVE(device ? 101 : OK);
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    pthread_mutex_lock(&mutex);
    if (--retained == 0 && (streams || events || modules || pinned))
        fprintf(stderr, "LEFT BEHIND: %d streams, %d events, %d modules, %d pinned buffers\n", streams,
                events, modules, pinned);
    LEAVE(device ? 101 : OK);
}
int cuCtxSetCurrent(void *context) { return has_context = context == &retained, OK; }
int cuCtxSynchronize(void) {
    ENTER;
    run_all();
    LEAVE(OK);
}

int cuStreamCreate(void **stream, unsigned flags) {
    // Work of a stream that waits for the default one would wait for what other libraries do.
    if (flags != 1) return INVALID_VALUE;
    ENTER;
    int n = 0;
    while (queues[n]) n++;
    queues[n] = calloc(1, sizeof(Queue));
    streams++;
    *stream = queues[n];
    LEAVE(OK);
}
int cuStreamDestroy_v2(void *stream) {
    ENTER;
    streams--;
    for (int n = 0; n < 8; n++)
        if (queues[n] == stream) queues[n] = NULL;
    LEAVE(OK);
}
int cuStreamSynchronize(void *stream) {
    ENTER;
    run(stream, ((Queue *)stream)->count);
    LEAVE(OK);
}
int cuEventCreate(void **event, unsigned flags) {
    ENTER;
    events++;
    *event = calloc(1, sizeof(Event));
    LEAVE(flags & 2 ? OK : INVALID_VALUE);
}
int cuEventDestroy_v2(void *event) {
    ENTER;
    events--;
    free(event);
    LEAVE(OK);
}
int cuEventRecord(void *event, void *stream) {
    ENTER;
    *(Event *)event = (Event){stream, ((Queue *)stream)->count};
    LEAVE(OK);
}
static void run_to(void *what) {
    Event *event = what;
    if (event->queue) run(event->queue, event->at);
}
int cuEventSynchronize(void *event) {
    ENTER;
    run_to(event);
    LEAVE(OK);
}
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    ENTER;
    LEAVE(flags ? INVALID_VALUE : ask(stream, run_to, event, sizeof(Event)));
}

int cuMemAlloc_v2(unsigned long long *address, size_t bytes) {
    ENTER;
    if (bytes == 0) LEAVE(INVALID_VALUE);
    if (bytes > TOTAL - taken || piece_count == MOST) LEAVE(OUT_OF_MEMORY);
    size_t whole = (bytes + 255) / 256 * 256;
    void *memory = aligned_alloc(256, whole);
    if (!memory) LEAVE(OUT_OF_MEMORY);
    memset(memory, 0xcd, whole);
    pieces[piece_count++] = (Piece){(uintptr_t)memory, bytes};
    taken += bytes;
    *address = (uintptr_t)memory;
    LEAVE(OK);
}
int cuMemFree_v2(unsigned long long address) {
    ENTER;
    for (size_t n = 0; n < piece_count; n++) {
        if (pieces[n].start != address) continue;
        run_all();
        taken -= pieces[n].bytes;
        pieces[n] = pieces[--piece_count];
        free((void *)(uintptr_t)address);
        LEAVE(OK);
    }
    LEAVE(INVALID_VALUE);
}
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    ENTER;
    *free_bytes = TOTAL - taken;
    *total = TOTAL;
    LEAVE(OK);
}
int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
    if (getenv("STAND_IN_NOT_PINNED")) return OUT_OF_MEMORY;
    ENTER;
    pinned++;
    *memory = malloc(bytes);
    LEAVE(flags ? INVALID_VALUE : OK);
}
int cuMemFreeHost(void *memory) {
    ENTER;
    pinned--;
    free(memory);
    LEAVE(OK);
}

typedef struct { void *to; const void *from; size_t bytes; } Copy;
static void copy(void *what) {
    Copy *copy = what;
    if (copy->from) memmove(copy->to, copy->from, copy->bytes);
    else memset(copy->to, 0, copy->bytes);
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *stream) {
    ENTER;
    Copy what = {(void *)(uintptr_t)to, from, bytes};
    LEAVE(stand_in_has(to, bytes) ? ask(stream, copy, &what, sizeof what) : INVALID_VALUE);
}
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *stream) {
    ENTER;
    Copy what = {to, (void *)(uintptr_t)from, bytes};
    LEAVE(stand_in_has(from, bytes) ? ask(stream, copy, &what, sizeof what) : INVALID_VALUE);
}
int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes, void *stream) {
    ENTER;
    Copy what = {(void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes};
    int fits = stand_in_has(to, bytes) && stand_in_has(from, bytes);
    LEAVE(fits ? ask(stream, copy, &what, sizeof what) : INVALID_VALUE);
}
int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t bytes, void *stream) {
    ENTER;
    Copy what = {(void *)(uintptr_t)to, NULL, bytes};
    int fits = stand_in_has(to, bytes) && value == 0;
    LEAVE(fits ? ask(stream, copy, &what, sizeof what) : INVALID_VALUE);
}

int cuModuleLoadDataEx(void **module, const void *code, unsigned count, int *options, void **values) {
    ENTER;
    // Machine code, and where errors go: the buffer (5) and its size (6).
    int known = memcmp(code, "\177ELF", 4) == 0 && count == 2 && options[0] == 5 && options[1] == 6;
    if (!known) LEAVE(200);
    snprintf(values[0], (size_t)values[1], "nothing to say");
    modules++;
    *module = malloc(1);
    LEAVE(OK);
}
int cuModuleUnload(void *module) {
    ENTER;
    modules--;
    free(module);
    LEAVE(OK);
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    ENTER;
    // The one kernel that this card knows.
    if (!module || strcmp(name, "convert_f32_bf16")) LEAVE(NOT_FOUND);
    Function *made = calloc(1, sizeof(Function));
    snprintf(made->name, sizeof made->name, "%s", name);
    made->shared = SHARED_PLAIN;
    *function = made;
    LEAVE(OK);
}
int cuFuncSetAttribute(void *function, int which, int value) {
    ENTER;
    if (which != 8 || value > SHARED_MOST) LEAVE(INVALID_VALUE);
    ((Function *)function)->shared = value;
    LEAVE(OK);
}

typedef struct { uint16_t *out; const float *x; long long count; } Convert;
static void convert(void *what) {
    Convert *convert = what;
    for (long long n = 0; n < convert->count; n++) {
        uint32_t bits;
        memcpy(&bits, convert->x + n, 4);
        convert->out[n] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void *stream, void **arguments, void **extra) {
    ENTER;
    int fits = x && y && z && threads && threads <= 1024 && threads_y == 1 && threads_z == 1;
    if (!fits || extra || shared > ((Function *)function)->shared) LEAVE(INVALID_VALUE);
    Convert what;
    memcpy(&what.out, arguments[0], sizeof what.out);
    memcpy(&what.x, arguments[1], sizeof what.x);
    memcpy(&what.count, arguments[2], sizeof what.count);
    int reaches = stand_in_has((uintptr_t)what.out, 2 * what.count) && stand_in_has((uintptr_t)what.x, 4 * what.count);
    LEAVE(reaches ? ask(stream, convert, &what, sizeof what) : 700);
}
