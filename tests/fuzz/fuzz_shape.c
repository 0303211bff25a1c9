/* The text of a shape, "b8s128". */
#include "layouts/model.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *const text = fuzz_text(data, size);
    char printed[128];
    wf_shape shape, again;
    if (wf_shape_parse(text, &shape) == WF_OK) {
        FUZZ_EXPECT(shape.batch > 0 && shape.sequence > 0);
        wf_shape_print(&shape, printed, sizeof printed);
        FUZZ_EXPECT(wf_shape_parse(printed, &again) == WF_OK && again.batch == shape.batch &&
                    again.sequence == shape.sequence);
    } else {
        fuzz_expect_sentence(wf_last_error());
    }
    free(text);
    return 0;
}
