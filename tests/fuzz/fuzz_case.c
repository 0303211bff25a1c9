/* The text of a case, and behind a newline that of a candidate for it; or of a block. */
#include "kernels/operation.h"
#include "layouts/block.h"
#include "tests/fuzz/fuzz.h"

static void try_block(const char *text) {
    char printed[WF_CASE_BYTES], twice[WF_CASE_BYTES];
    wf_block block, again;
    if (wf_block_parse(text, &block) != WF_OK) {
        fuzz_expect_sentence(wf_last_error());
        return;
    }
    FUZZ_EXPECT(wf_model_check(&block.model) == WF_OK);
    wf_block_print(&block, printed, sizeof printed);
    FUZZ_EXPECT(wf_block_parse(printed, &again) == WF_OK);
    wf_block_print(&again, twice, sizeof twice);
    FUZZ_EXPECT(strcmp(printed, twice) == 0 && block.model.window == again.model.window);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *const text = fuzz_text(data, size), *const line = strchr(text, '\n');
    char printed[WF_CASE_BYTES];
    wf_problem problem, again;
    wf_candidate candidate;
    if (line) *line = 0;
    if (wf_block_is(text)) try_block(text);
    if (wf_problem_parse(text, &problem) == WF_OK) {
        wf_problem_print(&problem, printed, sizeof printed);
        FUZZ_EXPECT(wf_problem_parse(printed, &again) == WF_OK &&
                    wf_problem_equal(&problem, &again));
        (void)wf_problem_bytes(&problem);
        if (line && wf_candidate_parse(&problem, line + 1, &candidate) == WF_OK) {
            wf_candidate_print(&problem, &candidate, printed, sizeof printed);
            wf_candidate_options(&problem, &candidate, printed, sizeof printed);
        } else if (line) {
            fuzz_expect_sentence(wf_last_error());
        }
    } else {
        fuzz_expect_sentence(wf_last_error());
    }
    free(text);
    return 0;
}
