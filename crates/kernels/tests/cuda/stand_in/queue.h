// What the stand-ins share: work of a stream, done as late as CUDA allows.
#include <stddef.h>

typedef void (*Work)(void *what);

// Puts work at a stream's end; `what` is copied.
int stand_in_ask(void *stream, Work work, const void *what, size_t bytes);

// Whether all of these bytes are in one piece of the card's memory.
int stand_in_has(unsigned long long address, size_t bytes);
