/* intermediate.c: the LLVM bitcode of a program, taken out of PoCL's binary. PoCL (3.1, 5.0, 7.1 were read) packs files one
 * after the other, each as two texts, its path and what is in it, and a text is its length in four bytes, the lowest
 * first, and its bytes; the bitcode is the file /program.bc. PoCL takes bitcode for a binary, too, links it with its
 * functions, and finds machine code by a hash of it, of its own version and LLVM's, and of the options: so what
 * is kept here cannot bring old machine code back, as a whole binary of PoCL's could, which names its hash itself.
 *
 * Nothing else is concluded from the bytes, and whatever looks otherwise is left alone. */
#include <string.h>

#include "host/device/cache.h"

static const unsigned char path[] = {11, 0, 0, 0, '/', 'p', 'r', 'o', 'g', 'r', 'a', 'm', '.', 'b', 'c'};
static const unsigned char bitcode[] = {'B', 'C', 0xC0, 0xDE};

const unsigned char *wf_intermediate_find(const unsigned char *binary, size_t nbytes, size_t *nbytes_out) {
    const size_t head = sizeof path + 4;
    for (size_t at = 0; nbytes >= head && at <= nbytes - head; at++) {
        if (memcmp(binary + at, path, sizeof path) != 0) continue;
        const unsigned char *const n = binary + at + sizeof path;
        const size_t length = (size_t)n[0] | (size_t)n[1] << 8 | (size_t)n[2] << 16 | (size_t)n[3] << 24;
        if (length < sizeof bitcode || length > nbytes - head - at) return NULL;
        if (memcmp(n + 4, bitcode, sizeof bitcode) != 0) return NULL;
        *nbytes_out = length;
        return n + 4;
    }
    return NULL;
}
