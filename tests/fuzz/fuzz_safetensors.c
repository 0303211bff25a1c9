/* The input is a file; or, where it begins with '{', a header up to the first newline and the data
 * behind it, so that the length before it is right. What opens is read whole. */
#include "host/model/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void try_file(const char *path) {
    wf_safetensors *s = NULL;
    if (wf_safetensors_open(path, &s) != WF_OK) {
        fuzz_expect_sentence(wf_last_error());
        return;
    }
    for (int64_t i = 0; i < wf_safetensors_count(s); i++) {
        const wf_tensor_entry *const e = wf_safetensors_entry(s, i);
        float *const room = malloc((size_t)e->elements * sizeof *room + 1);
        FUZZ_EXPECT(room && wf_safetensors_find(s, e->name) == e);
        FUZZ_EXPECT(wf_safetensors_read(s, e, 0, e->elements, room) == WF_OK ||
                    e->storage == WF_STORAGE_OTHER);
        free(room);
    }
    wf_safetensors_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size || *data != '{') {
        try_file(fuzz_file(data, size));
        return 0;
    }
    const uint8_t *const end = memchr(data, '\n', size);
    const size_t header = end ? (size_t)(end - data) : size, rest = end ? size - header - 1 : 0;
    uint8_t *const file = malloc(8 + header + rest);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)header >> 8 * i);
    memcpy(file + 8, data, header);
    if (rest) memcpy(file + 8 + header, end + 1, rest);
    try_file(fuzz_file(file, 8 + header + rest));
    free(file);
    return 0;
}
