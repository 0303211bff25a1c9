/* cache.h: built programs kept in files, for drivers that keep none themselves. A driver crashes on,
 * or runs, whatever bytes it is given as a binary; so a folder is used only if its user alone could
 * have written there, and an entry only if it is whole. Within host/device. */
#ifndef WF_DEVICE_CACHE_H
#define WF_DEVICE_CACHE_H

#include "host/base/sha256.h"
#include "host/device/opencl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the options say; NULL: the variable of that name. */
typedef struct wf_cache_wish {
    const char *cache;          /* "on", "off", "auto" */
    const char *folder;
    bool text_from_files;       /* kernels are not the embedded ones */
} wf_cache_wish;
/* Where programs are kept on a device of this platform, and is the driver's folder sound? Makes nothing.
 * WF_ERR_ARGUMENT on a malformed wish. (cache_place.c) */
wf_status wf_cache_place(const char *platform, const wf_cache_wish *, wf_cache_info *out);
/* WF_ERR_DEVICE where the driver would execute what others may have put into its folder. */
wf_status wf_cache_refuse(const wf_cache_info *);
/* Counts files and bytes. */
void wf_cache_measure(wf_cache_info *);

/* Opens the cache where wf_cache_place says, and the folder is made where it is missing. *out is NULL
 * when it is off, or the folder cannot be trusted (a log line says why). Refuses as wf_cache_refuse. */
wf_status wf_cache_open(wf_opencl *, const wf_cache_wish *, wf_cache **out);
void wf_cache_close(wf_cache *);

/* What an entry's name is made of. */
typedef struct wf_cache_key {
    uint8_t digest[WF_SHA256_BYTES];
} wf_cache_key;
/* SHA-256 of device, driver and its identity, this version of weft, source text and options. */
void wf_cache_key_of(const wf_opencl *, const char *text, const char *options, wf_cache_key *out);

/* The entry's bytes, malloc'ed; false when there is none that can be trusted (logged why). */
bool wf_cache_read(wf_cache *, const wf_cache_key *, unsigned char **bytes_out, size_t *nbytes_out);
/* Keeps an entry: whole or not at all. Failure is logged, not an error. */
void wf_cache_write(wf_cache *, const wf_cache_key *, const unsigned char *bytes, size_t nbytes);

/* Removes an entry that was sound and is of no use. */
void wf_cache_forget(wf_cache *, const wf_cache_key *);
/* Keeps an entry where there is no sound one yet, and gives back what is kept then, malloc'ed, for processes
 * that make one at the same time to go on with the same. False where none could be kept. */
bool wf_cache_offer(wf_cache *, const wf_cache_key *, const unsigned char *bytes, size_t nbytes,
                    unsigned char **bytes_out, size_t *nbytes_out);

/* ---- intermediate.c ------------------------------------------------------------------------------------ */

/* The LLVM bitcode in what PoCL gives for the binary of a program that was compiled and not linked: a part of
 * `binary`. NULL where there is none, or it is not as it was when this was written. */
const unsigned char *wf_intermediate_find(const unsigned char *binary, size_t nbytes, size_t *nbytes_out);

#ifdef __cplusplus
}
#endif
#endif
