/* share.c: see the header. The life of a piece: its rank makes and maps it, all tell each other
 * (process, descriptor, inode), each opens the others', and when all have, descriptors are closed.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include "host/fabric/share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/fabric/internal.h"

typedef struct card { /* what a rank tells about its piece */
    int64_t bytes;
    uint64_t device, inode;
    int32_t process, descriptor;
} card;

static int64_t round_up(int64_t bytes) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

static wf_status map(int descriptor, int64_t bytes, int protection, void **out) {
    void *const at = mmap(NULL, (size_t)round_up(bytes), protection, MAP_SHARED, descriptor, 0);
    if (at == MAP_FAILED)
        return wf_fail(WF_ERR_MEMORY, "mapping %lld bytes of shared memory failed: %s",
                       (long long)bytes, strerror(errno));
    *out = at;
    return WF_OK;
}

/* Reserves the pages now, so that a full memory is an error here and not a SIGBUS later. */
static wf_status make(int64_t bytes, card *out) {
    struct stat stat;
    *out = (card){.bytes = bytes, .process = getpid(), .descriptor = -1};
    if (bytes == 0) return WF_OK;
    out->descriptor = memfd_create("weft", MFD_CLOEXEC);
    if (out->descriptor < 0)
        return wf_fail(WF_ERR_FABRIC, "memfd_create failed: %s", strerror(errno));
    const int code = posix_fallocate(out->descriptor, 0, round_up(bytes));
    if (code)
        return wf_fail(WF_ERR_MEMORY, "no %lld bytes of shared memory: %s", (long long)bytes,
                       strerror(code));
    if (fstat(out->descriptor, &stat) < 0)
        return wf_fail(WF_ERR_FABRIC, "fstat failed: %s", strerror(errno));
    out->device = stat.st_dev;
    out->inode = stat.st_ino;
    return WF_OK;
}

/* In another PID namespace the path leads to nothing or to another file: the inode tells. */
static wf_status open_peer(const card *theirs, int writable, void **out) {
    char path[64];
    struct stat stat;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", theirs->process, theirs->descriptor);
    const int descriptor = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (descriptor < 0)
        return wf_fail(WF_ERR_FABRIC, "the shared memory of process %d cannot be opened: %s",
                       theirs->process, strerror(errno));
    wf_status status = WF_OK;
    if (fstat(descriptor, &stat) < 0 || stat.st_dev != theirs->device ||
        stat.st_ino != theirs->inode)
        status = wf_fail(WF_ERR_FABRIC,
                         "%s is not the shared memory of the peer (another PID namespace?)", path);
    else
        status = map(descriptor, theirs->bytes, PROT_READ | (writable ? PROT_WRITE : 0), out);
    close(descriptor);
    return status;
}

static wf_status open_all(wf_share *share, const card *cards, int writable) {
    for (int32_t m = 0; m < share->count; m++) {
        share->bytes[m] = cards[m].bytes;
        if (cards[m].bytes == 0) continue;
        if (m == share->mine)
            TRY(map(cards[m].descriptor, cards[m].bytes, PROT_READ | PROT_WRITE, &share->piece[m]));
        else
            TRY(open_peer(&cards[m], writable, &share->piece[m]));
    }
    return WF_OK;
}

static wf_status allocate(const wf_members *members, wf_share **share_out, card **cards_out) {
    const size_t count = (size_t)members->count;
    wf_share *const share = calloc(1, sizeof *share);
    card *const cards = calloc(count, sizeof *cards);
    if (share) {
        *share = (wf_share){.count = members->count, .mine = members->index};
        share->piece = calloc(count, sizeof *share->piece);
        share->bytes = calloc(count, sizeof *share->bytes);
    }
    if (share && share->piece && share->bytes && cards) {
        *share_out = share;
        *cards_out = cards;
        return WF_OK;
    }
    wf_share_destroy(share);
    free(cards);
    return wf_fail(WF_ERR_MEMORY, "no memory for the shares of %d ranks", members->count);
}

wf_status wf_share_create(const wf_bootstrap *boot, wf_members *members, double timeout_s,
                          int64_t bytes, int writable, wf_share **out) {
    wf_share *share = NULL;
    card *cards = NULL, mine = {.descriptor = -1};
    wf_status status = allocate(members, &share, &cards);
    if (status == WF_OK) status = make(bytes, &mine);
    TRY_GOTO(wf_agree_among(boot, members, WF_TAG_NODE, timeout_s, status), close_mine);
    TRY_GOTO(wf_gather(boot, members, WF_TAG_NODE, timeout_s, &mine, sizeof mine, cards),
             close_mine);
    status = open_all(share, cards, writable);
    TRY_GOTO(wf_agree_among(boot, members, WF_TAG_NODE, timeout_s, status), close_mine);
    *out = share;
    share = NULL;

close_mine:
    if (mine.descriptor >= 0) close(mine.descriptor);
    free(cards);
    wf_share_destroy(share);
    return status;
}

void wf_share_destroy(wf_share *share) {
    if (!share) return;
    for (int32_t m = 0; share->piece && share->bytes && m < share->count; m++)
        if (share->piece[m]) munmap(share->piece[m], (size_t)round_up(share->bytes[m]));
    free(share->piece);
    free(share->bytes);
    free(share);
}
