/* sha256.h: SHA-256 (FIPS 180-4), to recognise damaged or planted files. Not for passwords. */
#ifndef WF_BASE_SHA256_H
#define WF_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { WF_SHA256_BYTES = 32 };

typedef struct wf_sha256 {
    uint32_t state[8];
    uint64_t bytes;         /* so far */
    uint8_t block[64];      /* the part of a block not yet taken in */
} wf_sha256;

void wf_sha256_start(wf_sha256 *);
void wf_sha256_add(wf_sha256 *, const void *data, size_t bytes);
void wf_sha256_finish(wf_sha256 *, uint8_t digest_out[WF_SHA256_BYTES]);
/* 64 hexadecimal digits and a 0. */
void wf_sha256_hex(const uint8_t digest[WF_SHA256_BYTES], char out[2 * WF_SHA256_BYTES + 1]);

/* The two ways to take in blocks of 64 bytes: plain C, and with the processor's own instructions, NULL
 * where it has none (host/base/sha256_x86.c). The functions above choose. */
typedef void wf_sha256_blocks(uint32_t state[8], const uint8_t *data, size_t blocks);
void wf_sha256_plain(uint32_t state[8], const uint8_t *data, size_t blocks);
wf_sha256_blocks *wf_sha256_native(void);
extern const uint32_t wf_sha256_constants[64];

#ifdef __cplusplus
}
#endif
#endif
