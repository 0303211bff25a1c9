/* An entry of the program cache: as it is, and with magic, key and hash put right. What is handed
 * out is what was hashed, never more than the file holds. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/device/cache.h"
#include "host/device/opencl.h"
#include "tests/fuzz/fuzz.h"

enum { HEADER = 16 + 8 + 2 * WF_SHA256_BYTES };

static void write_entry(const char *path, const uint8_t *data, size_t size) {
    const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    FUZZ_EXPECT(file >= 0 && (!size || write(file, data, size) == (ssize_t)size));
    close(file);
}

static bool try_entry(wf_cache *cache, const wf_cache_key *key, const uint8_t *data, size_t size) {
    unsigned char *bytes = NULL;
    size_t nbytes = 0;
    if (!wf_cache_read(cache, key, &bytes, &nbytes)) return false;
    FUZZ_EXPECT(size == HEADER + nbytes && memcmp(bytes, data + HEADER, nbytes) == 0);
    free(bytes);
    return true;
}

static void put_right(const wf_cache_key *key, uint8_t *data, size_t size) {
    wf_sha256 hash;
    const uint64_t bytes = size - HEADER;
    memcpy(data, "weft program 1\n", 16);
    memcpy(data + 16, &bytes, 8);
    memcpy(data + 24, key->digest, WF_SHA256_BYTES);
    wf_sha256_start(&hash);
    wf_sha256_add(&hash, data + HEADER, bytes);
    wf_sha256_finish(&hash, data + 24 + WF_SHA256_BYTES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static wf_opencl opencl;
    static wf_cache *cache;
    static char folder[64], path[256], hex[2 * WF_SHA256_BYTES + 1];
    wf_cache_key key;
    wf_cache_key_of(&opencl, "text", "options", &key);
    if (!cache) {
        snprintf(folder, sizeof folder, "/dev/shm/fuzz-weft-cache-%ld", (long)getpid());
        FUZZ_EXPECT(wf_cache_open(&opencl, &(wf_cache_wish){"on", folder}, &cache) == WF_OK && cache);
        wf_sha256_hex(key.digest, hex);
        snprintf(path, sizeof path, "%s/%s.bin", folder, hex);
    }
    write_entry(path, data, size);
    try_entry(cache, &key, data, size);
    uint8_t *const right = malloc(size + HEADER);
    memcpy(right, data, size);
    if (size > HEADER) {
        put_right(&key, right, size);
        write_entry(path, right, size);
        FUZZ_EXPECT(try_entry(cache, &key, right, size));
        right[HEADER] ^= 1;
        write_entry(path, right, size);
        FUZZ_EXPECT(!try_entry(cache, &key, right, size));
    }
    free(right);
    return 0;
}
