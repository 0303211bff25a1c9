/* model.safetensors.index.json: no name that is accepted leaves the folder. */
#include "host/model/shards.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    wf_shard_index index = {0};
    if (wf_shard_index_read(fuzz_file(data, size), &index) != WF_OK) {
        fuzz_expect_sentence(wf_last_error());
        return 0;
    }
    FUZZ_EXPECT(index.nfiles > 0 && index.nfiles <= index.nplaces);
    for (int64_t i = 0; i < index.nfiles; i++)
        FUZZ_EXPECT(!strchr(index.files[i], '/') && *index.files[i] != '.');
    wf_shard_index_free(&index);
    return 0;
}
