/* config.json: what is accepted is a model that passes its own check. */
#include "host/model/config.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    wf_model model;
    if (wf_config_read(fuzz_file(data, size), &model) == WF_OK) {
        FUZZ_EXPECT(wf_model_check(&model) == WF_OK);
        FUZZ_EXPECT(wf_model_parameter_count(&model) > 0);
        FUZZ_EXPECT(model.window == wf_model_window(&model, model.positions)); /* one that hides nothing is none */
    } else {
        fuzz_expect_sentence(wf_last_error());
    }
    return 0;
}
