/* copy.h: host memory to host memory, for transports that copy themselves. */
#ifndef WF_FABRIC_COPY_H
#define WF_FABRIC_COPY_H

#include <stdint.h>

/* A part of a message of `whole` bytes. What is larger than caches hold is written past them where the processor can: it
 * need not fetch the lines that it overwrites, and what the caches hold stays. Parts end on whatever byte they like. */
void wf_copy_part(void *to, const void *from, int64_t bytes, int64_t whole);

#endif
