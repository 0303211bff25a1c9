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

#ifdef __cplusplus
}
#endif
#endif
