/* sha256_x86.c: SHA-256 by the SHA instructions of x86 processors (Gulley et al., "Intel SHA
 * Extensions", 2013), some 15 times the speed of plain C: a checkpoint's gigabytes are hashed as
 * they are written and before they are believed. Found by CPUID at run time; other processors have
 * none here. */
#include "host/base/sha256.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

/* Words 4i to 4i + 3 of the message, of which m holds the last sixteen. */
__attribute__((target("sha,sse4.1"))) static inline __m128i next_words(const __m128i m[4], int i) {
    const __m128i before = m[(i + 3) % 4], middle = _mm_alignr_epi8(before, m[(i + 2) % 4], 4);
    return _mm_sha256msg2_epu32(
        _mm_add_epi32(_mm_sha256msg1_epu32(m[i % 4], m[(i + 1) % 4]), middle), before);
}

/* The instructions want the eight words as (f e b a) and (h g d c). */
__attribute__((target("sha,sse4.1"))) static void blocks_x86(uint32_t state[8], const uint8_t *data,
                                                             size_t blocks) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
    const __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
    __m128i feba = _mm_alignr_epi8(low, high, 8), hgdc = _mm_blend_epi16(high, low, 0xf0);
    for (; blocks; blocks--, data += 64) {
        const __m128i feba_before = feba, hgdc_before = hgdc;
        __m128i m[4];
        for (int i = 0; i < 16; i++) { /* four rounds each */
            m[i % 4] = i < 4 ? _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)),
                                                big_endian)
                             : next_words(m, i);
            const __m128i sum = _mm_add_epi32(
                m[i % 4], _mm_loadu_si128((const __m128i *)(wf_sha256_constants + 4 * i)));
            hgdc = _mm_sha256rnds2_epu32(hgdc, feba, sum);
            feba = _mm_sha256rnds2_epu32(feba, hgdc, _mm_shuffle_epi32(sum, 0x0e));
        }
        feba = _mm_add_epi32(feba, feba_before);
        hgdc = _mm_add_epi32(hgdc, hgdc_before);
    }
    const __m128i abef = _mm_shuffle_epi32(feba, 0x1b), ghcd = _mm_shuffle_epi32(hgdc, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(abef, ghcd, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(ghcd, abef, 8));
}

wf_sha256_blocks *wf_sha256_native(void) {
    static int known; /* 1: none, 2: there; every thread finds the same */
    unsigned a, b, c, d;
    if (!__atomic_load_n(&known, __ATOMIC_RELAXED)) {
        const int sse = __get_cpuid(1, &a, &b, &c, &d) && c & bit_SSE4_1 && c & bit_SSSE3;
        const int sha = __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & 1u << 29;
        __atomic_store_n(&known, sse && sha ? 2 : 1, __ATOMIC_RELAXED);
    }
    return __atomic_load_n(&known, __ATOMIC_RELAXED) == 2 ? blocks_x86 : NULL;
}

#else
wf_sha256_blocks *wf_sha256_native(void) {
    return NULL;
}
#endif
