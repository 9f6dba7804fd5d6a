// What the stand-ins share: work of a stream, done as late as CUDA allows.
#include <stddef.h>

typedef void (*Work)(void *what);

// Puts work at a stream's end; `what` is copied.
int stand_in_ask(void *stream, Work work, const void *what, size_t bytes);

// The card's compute capability: 90 for 9.0, unless STAND_IN_CAPABILITY says another one.
int stand_in_capability(void);

// Whether all of these bytes are in one piece of the card's memory.
int stand_in_has(unsigned long long address, size_t bytes);

// The same of a card's memory; the one above is of the card whose context is current.
int stand_in_card_has(int card, unsigned long long address, size_t bytes);

// Puts work at the ends of several streams: it is done once, when all of them have come to it.
int stand_in_meet(void **streams, int count, Work work, const void *what, size_t bytes);
