// A driver of a card that is not there. It keeps to the order that CUDA promises and to nothing more: what
// a stream is asked for is done when somebody waits for it and not before, memory of the program is read
// at that time, and calls are refused as they are by the real one: without a context, outside of the
// card's memory, with more shared memory than was asked for, and where they wait or give memory back while
// work is captured, which spoils the capture. There are STAND_IN_CARDS of it (one without), which reach each
// other's memory unless STAND_IN_APART is there, by links of their own where STAND_IN_NVLINK is.
#define _GNU_SOURCE
#include "queue.h"

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE = 101, NO_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500 };
enum { PEERS_ALREADY = 704, NO_WAY = 217, CAPTURING = 900, SPOILED };
enum { MOST = 1 << 16, ARGUMENTS = 48, CARDS = 8, STREAMS = 32 };
#define TOTAL ((size_t)24 << 30)
#define SHARED_PLAIN (48 << 10)
#define SHARED_MOST (163 << 10)

typedef struct { Work work; void *what; size_t bytes; } Item;
// A stream, or what was captured of one.
typedef struct Queue { Item *items; size_t done, count; int card, busy; struct Queue *captured; } Queue;
typedef struct { Queue *queue; size_t at; int card; } Event;
typedef struct { char name[64]; unsigned shared; } Function;
typedef struct { unsigned long long start; size_t bytes; int card; } Piece;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
// The card whose context is current, from 1; 0 is none.
static __thread int current;
static Piece pieces[MOST];
static size_t piece_count, taken[CARDS];
static Queue *queues[STREAMS];
static int retained[CARDS], sleeps[CARDS], reaches[CARDS][CARDS], streams, events, modules, pinned, graphs;
// Captures under way, and whether one was spoiled.
static int capturing, spoiled;
#define CARD (current - 1)

#define ENTER                                  \
    if (!current) return NO_CONTEXT;           \
    pthread_mutex_lock(&mutex)
// What waits for work cannot be done while some is captured.
#define WAITS                                      \
    if (capturing) LEAVE((spoiled = 1, CAPTURING))
#define LEAVE(status)                          \
    do {                                       \
        int result = (status);                 \
        pthread_mutex_unlock(&mutex);          \
        return result;                         \
    } while (0)

// Whether the card has no memory left for what this call takes by itself.
static int lacks(const char *call) {
    const char *what = getenv("STAND_IN_NO_MEMORY_FOR");
    return what && !strcmp(what, call);
}

int stand_in_capability(void) {
    const char *capability = getenv("STAND_IN_CAPABILITY");
    return capability ? atoi(capability) : 90;
}

static int cards(void) {
    const char *count = getenv("STAND_IN_CARDS");
    return count ? atoi(count) : 1;
}

static void run(Queue *queue, size_t until) {
    // What is at work now comes before `done`.
    if (queue->busy && until >= queue->done) {
        fprintf(stderr, "DEADLOCK: two streams wait for each other\n");
        abort();
    }
    while (queue->done < until) {
        Item item = queue->items[queue->done++];
        queue->busy = 1;
        item.work(item.what);
        queue->busy = 0;
        free(item.what);
    }
}

static void run_all(int card) {
    for (int n = 0; n < STREAMS; n++)
        if (queues[n] && queues[n]->card == card) run(queues[n], queues[n]->count);
}

static int ask(Queue *queue, Work work, const void *what, size_t bytes) {
    if (!queue) return INVALID_VALUE;
    if (queue->captured) queue = queue->captured;
    queue->items = realloc(queue->items, (queue->count + 1) * sizeof(Item));
    Item item = {work, malloc(bytes), bytes};
    memcpy(item.what, what, bytes);
    queue->items[queue->count++] = item;
    return OK;
}

int stand_in_ask(void *stream, Work work, const void *what, size_t bytes) {
    ENTER;
    LEAVE(ask(stream, work, what, bytes));
}

int stand_in_card_has(int card, unsigned long long address, size_t bytes) {
    for (size_t n = 0; n < piece_count; n++)
        if (pieces[n].card == card && address >= pieces[n].start && address - pieces[n].start + bytes <= pieces[n].bytes)
            return 1;
    return 0;
}
int stand_in_has(unsigned long long address, size_t bytes) { return stand_in_card_has(CARD, address, bytes); }

// Of several streams: what is left of it when all have come is freed.
typedef struct { Queue *queues[CARDS]; size_t at[CARDS]; int count, left, done; Work work; void *what; } Meeting;
static void meet(void *what) {
    Meeting *meeting = *(Meeting **)what;
    if (!meeting->done) {
        meeting->done = 1;
        for (int n = 0; n < meeting->count; n++)
            if (meeting->queues[n]->done <= meeting->at[n]) run(meeting->queues[n], meeting->at[n]);
        meeting->work(meeting->what);
    }
    if (--meeting->left == 0) {
        free(meeting->what);
        free(meeting);
    }
}
int stand_in_meet(void **streams, int count, Work work, const void *what, size_t bytes) {
    pthread_mutex_lock(&mutex);
    if (count > CARDS) LEAVE(INVALID_VALUE);
    Meeting *meeting = calloc(1, sizeof(Meeting));
    meeting->count = meeting->left = count;
    meeting->work = work;
    meeting->what = malloc(bytes);
    memcpy(meeting->what, what, bytes);
    for (int n = 0; n < count; n++) {
        meeting->queues[n] = streams[n];
        meeting->at[n] = meeting->queues[n]->count;
        ask(streams[n], meet, &meeting, sizeof meeting);
    }
    LEAVE(OK);
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

int cuDeviceGetCount(int *count) { return *count = cards(), OK; }
int cuDeviceGet(int *device, int ordinal) {
    if (ordinal < 0 || ordinal >= cards()) return NO_DEVICE;
    return *device = ordinal, OK;
}
int cuDeviceGetName(char *name, int bytes, int device) {
    return device >= cards() ? NO_DEVICE : (snprintf(name, bytes, "a card that is not there"), OK);
}
int cuDeviceGetPCIBusId(char *name, int bytes, int device) {
    return device >= cards() ? NO_DEVICE : (snprintf(name, bytes, "0000:%02x:00.0", device), OK);
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    return device >= cards() ? NO_DEVICE : (*bytes = TOTAL, OK);
}
int cuDeviceGetAttribute(int *value, int which, int device) {
    switch (which) {
    case 13: *value = 1410000; break;
    case 16: *value = 108; break;
    // Whether kernels that take long are ended.
    case 17: *value = getenv("STAND_IN_SCREEN") != NULL; break;
    case 75: *value = stand_in_capability() / 10; break;
    case 76: *value = stand_in_capability() % 10; break;
    default: return INVALID_VALUE;
    }
    return device >= cards() ? NO_DEVICE : OK;
}
// How threads wait: 4 is asleep.
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
    return device >= cards() ? NO_DEVICE : (sleeps[device] = flags == 4, OK);
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (device >= cards()) return NO_DEVICE;
    pthread_mutex_lock(&mutex);
    retained[device]++;
    *context = &retained[device];
    LEAVE(OK);
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    pthread_mutex_lock(&mutex);
    int all = 0;
    retained[device]--;
    for (int n = 0; n < CARDS; n++) all += retained[n];
    if (all == 0 && (streams || events || modules || pinned || graphs))
        fprintf(stderr, "LEFT BEHIND: %d streams, %d events, %d modules, %d pinned buffers, %d graphs\n", streams,
                events, modules, pinned, graphs);
    LEAVE(OK);
}
static int card_of(void *context) {
    int *place = context;
    return place >= retained && place < retained + CARDS && *place ? (int)(place - retained) : -1;
}
int cuCtxSetCurrent(void *context) { return current = card_of(context) + 1, current ? OK : NO_CONTEXT; }
int cuDeviceCanAccessPeer(int *can, int card, int other) {
    if (card >= cards() || other >= cards()) return NO_DEVICE;
    return *can = card != other && !getenv("STAND_IN_APART"), OK;
}
// Whether atomics go over the link is the fourth of what there is to know.
int cuDeviceGetP2PAttribute(int *value, int which, int card, int other) {
    if (card >= cards() || other >= cards()) return NO_DEVICE;
    return *value = which == 3 && card != other && !!getenv("STAND_IN_NVLINK"), OK;
}
int cuCtxEnablePeerAccess(void *context, unsigned flags) {
    ENTER;
    int other = card_of(context);
    if (flags || other < 0 || other == CARD) LEAVE(INVALID_VALUE);
    if (getenv("STAND_IN_APART")) LEAVE(NO_WAY);
    LEAVE(reaches[CARD][other]++ ? PEERS_ALREADY : OK);
}

int cuStreamCreate(void **stream, unsigned flags) {
    // Work of a stream that waits for the default one would wait for what other libraries do.
    if (flags != 1) return INVALID_VALUE;
    ENTER;
    int n = 0;
    while (queues[n]) n++;
    queues[n] = calloc(1, sizeof(Queue));
    queues[n]->card = CARD;
    streams++;
    *stream = queues[n];
    LEAVE(OK);
}
int cuStreamDestroy_v2(void *stream) {
    ENTER;
    streams--;
    for (int n = 0; n < STREAMS; n++)
        if (queues[n] == stream) queues[n] = NULL;
    LEAVE(OK);
}
int cuStreamSynchronize(void *stream) {
    ENTER;
    if (((Queue *)stream)->captured) WAITS;
    if (!sleeps[CARD]) fprintf(stderr, "SPINS\n");
    run(stream, ((Queue *)stream)->count);
    LEAVE(OK);
}
int cuEventCreate(void **event, unsigned flags) {
    ENTER;
    events++;
    *event = calloc(1, sizeof(Event));
    ((Event *)*event)->card = CARD;
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
    // A stream marks events of its own card alone; any may wait for them.
    int card = ((Event *)event)->card;
    if (card != CARD || card != ((Queue *)stream)->card) LEAVE(INVALID_HANDLE);
    *(Event *)event = (Event){stream, ((Queue *)stream)->count, card};
    LEAVE(OK);
}
static void run_to(void *what) {
    Event *event = what;
    if (event->queue) run(event->queue, event->at);
}
int cuEventSynchronize(void *event) {
    ENTER;
    WAITS;
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
    if (bytes > TOTAL - taken[CARD] || piece_count == MOST) LEAVE(OUT_OF_MEMORY);
    size_t whole = (bytes + 255) / 256 * 256;
    void *memory = aligned_alloc(256, whole);
    if (!memory) LEAVE(OUT_OF_MEMORY);
    memset(memory, 0xcd, whole);
    pieces[piece_count++] = (Piece){(uintptr_t)memory, bytes, CARD};
    taken[CARD] += bytes;
    *address = (uintptr_t)memory;
    LEAVE(OK);
}
int cuMemFree_v2(unsigned long long address) {
    ENTER;
    WAITS;
    for (size_t n = 0; n < piece_count; n++) {
        if (pieces[n].start != address || pieces[n].card != CARD) continue;
        run_all(CARD);
        taken[CARD] -= pieces[n].bytes;
        pieces[n] = pieces[--piece_count];
        free((void *)(uintptr_t)address);
        LEAVE(OK);
    }
    LEAVE(INVALID_VALUE);
}
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    ENTER;
    *free_bytes = TOTAL - taken[CARD];
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

typedef struct { void *to; const void *from; size_t bytes; int spoils; } Copy;
static void copy(void *what) {
    Copy *copy = what;
    if (copy->from) memmove(copy->to, copy->from, copy->bytes);
    else memset(copy->to, 0, copy->bytes);
    // As where an IOMMU is in the way of the cards.
    if (copy->spoils) ((char *)copy->to)[copy->bytes / 2] ^= 1;
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
int cuMemcpyPeerAsync(unsigned long long to, void *to_context, unsigned long long from, void *from_context, size_t bytes,
                      void *stream) {
    ENTER;
    Copy what = {(void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes};
    int there = card_of(to_context), here = card_of(from_context);
    int fits = stand_in_card_has(there, to, bytes) && stand_in_card_has(here, from, bytes);
    // In the order of a stream of the card whose context is current.
    if (!fits || ((Queue *)stream)->card != CARD || (CARD != there && CARD != here)) LEAVE(INVALID_VALUE);
    what.spoils = getenv("STAND_IN_PEERS_DAMAGE") != NULL;
    LEAVE(ask(stream, copy, &what, sizeof what));
}
int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t bytes, void *stream) {
    ENTER;
    Copy what = {(void *)(uintptr_t)to, NULL, bytes};
    int fits = stand_in_has(to, bytes) && value == 0;
    LEAVE(fits ? ask(stream, copy, &what, sizeof what) : INVALID_VALUE);
}

int cuModuleLoadDataEx(void **module, const void *code, unsigned count, int *options, void **values) {
    ENTER;
    if (lacks("cuModuleLoadDataEx")) LEAVE(OUT_OF_MEMORY);
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
    if (lacks("cuModuleGetFunction")) LEAVE(OUT_OF_MEMORY);
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
    // Code is loaded when it is first started.
    if (lacks("cuLaunchKernel")) LEAVE(OUT_OF_MEMORY);
    int fits = x && y && z && threads && threads <= 1024 && threads_y == 1 && threads_z == 1;
    if (!fits || extra || shared > ((Function *)function)->shared) LEAVE(INVALID_VALUE);
    Convert what;
    memcpy(&what.out, arguments[0], sizeof what.out);
    memcpy(&what.x, arguments[1], sizeof what.x);
    memcpy(&what.count, arguments[2], sizeof what.count);
    int reaches = stand_in_has((uintptr_t)what.out, 2 * what.count) && stand_in_has((uintptr_t)what.x, 4 * what.count);
    LEAVE(reaches ? ask(stream, convert, &what, sizeof what) : 700);
}

#ifndef NO_GRAPHS
int cuStreamBeginCapture_v2(void *stream, unsigned mode) {
    ENTER;
    Queue *queue = stream;
    // In the other modes no memory may be reserved meanwhile.
    if (!queue || queue->captured || mode != 2) LEAVE(INVALID_VALUE);
    queue->captured = calloc(1, sizeof(Queue));
    capturing++;
    LEAVE(OK);
}
static void forget(Queue *queue) {
    for (size_t n = 0; n < queue->count; n++) free(queue->items[n].what);
    free(queue->items);
    free(queue);
    graphs--;
}
int cuStreamEndCapture(void *stream, void **graph) {
    ENTER;
    Queue *queue = stream;
    *graph = NULL;
    if (!queue || !queue->captured) LEAVE(INVALID_VALUE);
    Queue *captured = queue->captured;
    queue->captured = NULL;
    capturing--;
    graphs++;
    if (spoiled) {
        spoiled = 0;
        forget(captured);
        LEAVE(SPOILED);
    }
    *graph = captured;
    LEAVE(OK);
}
int cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
    ENTER;
    if (lacks("cuGraphInstantiateWithFlags")) LEAVE(OUT_OF_MEMORY);
    if (!graph || flags || getenv("STAND_IN_GRAPHS_FAIL")) LEAVE(INVALID_VALUE);
    const Queue *from = graph;
    Queue *copy = calloc(1, sizeof(Queue));
    for (size_t n = 0; n < from->count; n++) ask(copy, from->items[n].work, from->items[n].what, from->items[n].bytes);
    graphs++;
    *made = copy;
    LEAVE(OK);
}
int cuGraphDestroy(void *graph) {
    ENTER;
    forget(graph);
    LEAVE(OK);
}
int cuGraphLaunch(void *made, void *stream) {
    ENTER;
    const Queue *from = made;
    if (!from || capturing) LEAVE(INVALID_VALUE);
    for (size_t n = 0; n < from->count; n++) ask(stream, from->items[n].work, from->items[n].what, from->items[n].bytes);
    LEAVE(OK);
}
int cuGraphExecDestroy(void *made) {
    ENTER;
    forget(made);
    LEAVE(OK);
}
#endif
