/* config.h: models from Hugging Face configuration files. */
#ifndef WF_MODEL_CONFIG_H
#define WF_MODEL_CONFIG_H

#include "layouts/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Reads the config.json of a gpt2, llama, mistral, qwen2 or bert. A field that is missing, of another type or absurd, and a
 * variant that weft does not compute, is one sentence naming file, field and value. A window that hides none of the model's
 * positions is read as none. */
wf_status wf_config_read(const char *path, wf_model *out);
/* A new file that wf_config_read and `transformers` read back as this model; what says so of Llama's kin is llama, mistral (a
 * window) or qwen2 (biases of q, k, v). host/model/config_write.c */
wf_status wf_config_write(const wf_model *, const char *path);

#ifdef __cplusplus
}
#endif
#endif
