/* saving.h: how weights and optimizer state of all ranks reach files and come back (host/api). */
#ifndef WEFT_API_SAVING_H
#define WEFT_API_SAVING_H

#include "host/api/objects.h"
#include "host/model/progress.h"
#include "host/model/weights.h"

/* Collective. Rank 0 writes config.json, model.safetensors and, where wanted, the optimizer's file
 * into `folder` (which only rank 0 needs to know), tensor by tensor; sizes and hashes go to `out`
 * on rank 0. Every rank gets the same verdict. */
wf_status weft_save_files(weft_params *, const char *folder, bool optimizer, wf_progress *out);

/* Collective. This rank's shards from open files: what[set] is "" or "m" or "v". */
wf_status weft_load_shards(weft_params *, const wf_weights *, const char *const *what, int nsets);

/* m and v become 0, where there are any. */
wf_status weft_clear_optimizer(weft_params *);

#endif
