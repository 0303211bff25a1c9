/* The text of a layout: what is accepted is printed and read back as the same. */
#include "layouts/layout.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *const text = fuzz_text(data, size);
    char printed[512], again[512];
    wf_layout layout;
    if (wf_layout_parse(text, &layout) == WF_OK) {
        FUZZ_EXPECT(wf_layout_ranks(&layout) >= 1);
        wf_layout_print(&layout, printed, sizeof printed);
        FUZZ_EXPECT(wf_layout_parse(printed, &layout) == WF_OK);
        wf_layout_print(&layout, again, sizeof again);
        FUZZ_EXPECT(strcmp(printed, again) == 0);
    } else {
        fuzz_expect_sentence(wf_last_error());
    }
    free(text);
    return 0;
}
