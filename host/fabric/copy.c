/* copy.c: see the header. */
#include "host/fabric/copy.h"

#include <string.h>

/* Below it the caches of two cores win, even where nobody reads the copy soon (benchmarks/NOTES.md). */
enum { PAST_CACHES_FROM = 8 << 20 };

#if defined(__SSE2__)
#include <emmintrin.h>

enum { LINE = 64, VECTOR = sizeof(__m128i) };

static void copy_line(char *to, const char *from) {
    const __m128i a = _mm_loadu_si128((const __m128i *)from), b = _mm_loadu_si128((const __m128i *)(from + VECTOR)),
                  c = _mm_loadu_si128((const __m128i *)(from + 2 * VECTOR)), d = _mm_loadu_si128((const __m128i *)(from + 3 * VECTOR));
    _mm_stream_si128((__m128i *)to, a);
    _mm_stream_si128((__m128i *)(to + VECTOR), b);
    _mm_stream_si128((__m128i *)(to + 2 * VECTOR), c);
    _mm_stream_si128((__m128i *)(to + 3 * VECTOR), d);
}

static void copy_past_caches(char *to, const char *from, size_t bytes) {
    const size_t misaligned = (size_t)((uintptr_t)to % LINE), before = misaligned ? LINE - misaligned : 0;
    const size_t head = before < bytes ? before : bytes, lines = (bytes - head) / LINE;
    memcpy(to, from, head);
    for (size_t i = 0; i < lines; i++) copy_line(to + head + i * LINE, from + head + i * LINE);
    _mm_sfence(); /* flags that are raised from now on are seen after these bytes */
    memcpy(to + head + lines * LINE, from + head + lines * LINE, bytes - head - lines * LINE);
}
#else
static void copy_past_caches(char *to, const char *from, size_t bytes) {
    memcpy(to, from, bytes);
}
#endif

void wf_copy_part(void *to, const void *from, int64_t bytes, int64_t whole) {
    if (whole >= PAST_CACHES_FROM) copy_past_caches(to, from, (size_t)bytes);
    else memcpy(to, from, (size_t)bytes);
}
