// NCCL by its documentation: communicators of one process, a card each; sends and receives in groups, of which each
// send has its receive; one stream for each communicator. A group that a real one would wait for for ever is
// refused with a word about it. What is to go wrong is named by variables:
//   STAND_IN_NCCL_VERSION=N   another version
//   STAND_IN_NCCL_INIT=N      the start fails with this status, or never returns (-1)
//   STAND_IN_NCCL_SEND=N      the Nth send is refused
//   STAND_IN_NCCL_DAMAGE=1    a byte of each transfer is another one
//   STAND_IN_NCCL_HANG=N      nothing is done from the Nth group on, until the communicators are ended
//   STAND_IN_NCCL_TELLS=N     the same, and whoever asks is told so by this status
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK, SYSTEM_ERROR = 2, INTERNAL = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6 };
enum { INT8 = 0, MOST_CARDS = 8, MOST_CALLS = 2 * MOST_CARDS * MOST_CARDS };

#ifdef AT_ONCE
typedef void (*Work)(void *what);
static int stand_in_meet(void **streams, int count, Work work, const void *what, size_t bytes) {
    void *own = malloc(bytes);
    memcpy(own, what, bytes);
    work(own);
    free(own);
    return OK;
}
static int stand_in_card_has(int card, unsigned long long address, size_t bytes) { return address && bytes; }
#else
#include "queue.h"
#endif

typedef struct Comm {
    int rank, count, card;
    volatile int aborted;
    void *stream;
    struct Comm *all[MOST_CARDS];
} Comm;
typedef struct { int is_send; unsigned char *memory; size_t bytes; int peer; Comm *comm; } Call;
typedef struct { int count, hangs; Call sends[MOST_CALLS], receives[MOST_CALLS]; } Group;

static __thread int depth, call_count, failed;
static __thread Call calls[MOST_CALLS];
static int alive, groups, sends;
static char last[256] = "";

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}
static int refuse(int status, const char *why) {
    snprintf(last, sizeof last, "%s", why);
    return status;
}

int ncclGetVersion(int *version) {
    return *version = number("STAND_IN_NCCL_VERSION") ? number("STAND_IN_NCCL_VERSION") : 22703, OK;
}
const char *ncclGetErrorString(int status) {
    switch (status) {
    case OK: return "no error";
    case SYSTEM_ERROR: return "unhandled system error";
    case INTERNAL: return "internal error";
    case INVALID_ARGUMENT: return "invalid argument";
    case INVALID_USAGE: return "invalid usage";
    case REMOTE_ERROR: return "remote process exited or there was a network error";
    }
    return "unknown result code";
}
const char *ncclGetLastError(Comm *comm) { return last; }

int ncclCommInitAll(Comm **comms, int count, const int *cards) {
    long status = number("STAND_IN_NCCL_INIT");
    while (status < 0) usleep(10000);
    if (status) return refuse(status, "as it was asked to");
    if (count < 1 || count > MOST_CARDS) return refuse(INVALID_ARGUMENT, "a number of cards");
    for (int i = 0; i < count; i++)
        for (int j = 0; j < i; j++)
            if (cards[i] == cards[j]) return refuse(INVALID_USAGE, "Duplicate GPU detected");
    for (int i = 0; i < count; i++) {
        comms[i] = calloc(1, sizeof(Comm));
        comms[i]->rank = i;
        comms[i]->count = count;
        comms[i]->card = cards[i];
        __atomic_add_fetch(&alive, 1, __ATOMIC_SEQ_CST);
    }
    for (int i = 0; i < count; i++)
        for (int j = 0; j < count; j++) comms[i]->all[j] = comms[j];
    return OK;
}
int ncclCommDestroy(Comm *comm) {
    __atomic_add_fetch(&alive, -1, __ATOMIC_SEQ_CST);
    // The others may still look at it.
    return comm->aborted ? refuse(INVALID_USAGE, "a communicator that was ended") : OK;
}
int ncclCommAbort(Comm *comm) {
    __atomic_add_fetch(&alive, -1, __ATOMIC_SEQ_CST);
    if (comm->aborted) fprintf(stderr, "NCCL MISUSE: ended twice\n");
    return comm->aborted = 1, OK;
}
int ncclCommGetAsyncError(Comm *comm, int *status) {
    if (comm->aborted) fprintf(stderr, "NCCL MISUSE: asked after the end\n");
    long from = number("STAND_IN_NCCL_TELLS");
    return *status = from && groups >= from ? REMOTE_ERROR : OK, OK;
}
__attribute__((destructor)) static void leave(void) {
    if (alive) fprintf(stderr, "LEFT BEHIND: %d communicators\n", alive);
}

static int ask(Call call, int type, void *stream) {
    Comm *comm = call.comm;
    if (comm->aborted) fprintf(stderr, "NCCL MISUSE: called after the end\n");
    if (!depth) return refuse(INVALID_USAGE, "a call outside of a group: the other end would never be asked for");
    if (type != INT8 || call.peer < 0 || call.peer >= comm->count || call.peer == comm->rank)
        return refuse(INVALID_ARGUMENT, "a type or a peer");
    if (!stream || (comm->stream && comm->stream != stream))
        return refuse(INVALID_ARGUMENT, "another stream than before");
    if (!stand_in_card_has(comm->card, (uintptr_t)call.memory, call.bytes))
        return refuse(INVALID_ARGUMENT, "memory that is not the card's");
    if (call_count == MOST_CALLS) return refuse(INVALID_USAGE, "too many calls");
    comm->stream = stream;
    calls[call_count++] = call;
    return OK;
}
int ncclSend(const void *memory, size_t bytes, int type, int peer, Comm *comm, void *stream) {
    int nth = __atomic_add_fetch(&sends, 1, __ATOMIC_SEQ_CST);
    int status = nth == number("STAND_IN_NCCL_SEND")
        ? refuse(SYSTEM_ERROR, "as it was asked to")
        : ask((Call){1, (unsigned char *)memory, bytes, peer, comm}, type, stream);
    if (status) failed = status;
    return status;
}
int ncclRecv(void *memory, size_t bytes, int type, int peer, Comm *comm, void *stream) {
    int status = ask((Call){0, memory, bytes, peer, comm}, type, stream);
    if (status) failed = status;
    return status;
}

static void move(void *what) {
    Group *group = what;
    for (int n = 0; n < group->count; n++) {
        while (group->hangs && !group->sends[n].comm->aborted) usleep(1000);
        if (group->hangs) continue;
        memcpy(group->receives[n].memory, group->sends[n].memory, group->sends[n].bytes);
        if (number("STAND_IN_NCCL_DAMAGE")) group->receives[n].memory[group->sends[n].bytes / 2] ^= 1;
    }
}

int ncclGroupStart(void) {
    if (depth++ == 0) call_count = failed = 0;
    return OK;
}
int ncclGroupEnd(void) {
    if (!depth) return refuse(INVALID_USAGE, "a group that was not begun");
    if (--depth) return OK;
    // Nothing of a group is done when one of its calls was refused.
    if (failed) return failed;
    Group *group = calloc(1, sizeof(Group));
    void *streams[MOST_CARDS];
    int stream_count = 0, taken[MOST_CALLS] = {0};
    for (int n = 0; n < call_count; n++) {
        int known = 0;
        for (int i = 0; i < stream_count; i++) known |= streams[i] == calls[n].comm->stream;
        if (!known) streams[stream_count++] = calls[n].comm->stream;
        if (!calls[n].is_send) continue;
        Comm *other = calls[n].comm->all[calls[n].peer];
        int found = -1;
        for (int i = 0; i < call_count && found < 0; i++)
            if (!calls[i].is_send && !taken[i] && calls[i].comm == other && calls[i].peer == calls[n].comm->rank) found = i;
        if (found < 0 || calls[found].bytes != calls[n].bytes) {
            fprintf(stderr, "NCCL MISUSE: a send of %zu bytes without its receive\n", calls[n].bytes);
            free(group);
            return refuse(INTERNAL, "a send without its receive");
        }
        taken[found] = 1;
        group->sends[group->count] = calls[n];
        group->receives[group->count++] = calls[found];
    }
    if (2 * group->count != call_count) {
        fprintf(stderr, "NCCL MISUSE: a receive without its send\n");
        free(group);
        return refuse(INTERNAL, "a receive without its send");
    }
    int nth = __atomic_add_fetch(&groups, 1, __ATOMIC_SEQ_CST);
    long hangs = number("STAND_IN_NCCL_HANG"), tells = number("STAND_IN_NCCL_TELLS");
    group->hangs = (hangs && nth >= hangs) || (tells && nth >= tells);
    int status = group->count ? stand_in_meet(streams, stream_count, move, group, sizeof *group) : OK;
    free(group);
    return status ? refuse(INTERNAL, "a stream") : OK;
}
