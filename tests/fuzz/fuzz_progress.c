/* progress.json: as it is, and once more with its hash of itself put right, so that what stands
 * behind that gate is tried, too. What is accepted is written and read back the same. */
#include <jansson.h>
#include <unistd.h>

#include "host/model/progress.h"
#include "tests/fuzz/fuzz.h"

static void try_file(const char *path) {
    wf_progress got, again;
    char to[64];
    if (wf_progress_read(path, &got) != WF_OK) {
        fuzz_expect_sentence(wf_last_error());
        return;
    }
    FUZZ_EXPECT(got.step >= 0 && got.data_position >= 0 &&
                memchr(got.layout, 0, sizeof got.layout));
    snprintf(to, sizeof to, "/dev/shm/fuzz-weft-progress-%ld", (long)getpid());
    FUZZ_EXPECT(wf_progress_write(to, &got) == WF_OK && wf_progress_read(to, &again) == WF_OK);
    unlink(to);
    FUZZ_EXPECT(again.step == got.step && again.seed == got.seed &&
                strcmp(again.layout, got.layout) == 0 &&
                memcmp(again.file[1].digest, got.file[1].digest, sizeof got.file[1].digest) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t digest[WF_SHA256_BYTES];
    char hex[2 * WF_SHA256_BYTES + 1];
    wf_sha256 hash;
    try_file(fuzz_file(data, size));
    json_t *const root = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(root)) {
        json_object_del(root, "check");
        char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
        wf_sha256_start(&hash);
        wf_sha256_add(&hash, text, strlen(text));
        wf_sha256_finish(&hash, digest);
        wf_sha256_hex(digest, hex);
        free(text);
        json_object_set_new(root, "check", json_string(hex));
        text = json_dumps(root, 0);
        try_file(fuzz_file(text, strlen(text)));
        free(text);
    }
    json_decref(root);
    return 0;
}
