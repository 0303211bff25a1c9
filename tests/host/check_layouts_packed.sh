#!/bin/sh
# Layouts of a gpt2 equal one rank where sequences are several documents, in each of which learned positions begin anew.
packed=packed-
. "$(dirname "$0")/layouts_family.sh" <<'END'
{"model_type": "gpt2", "n_layer": 2, "n_embd": 96, "n_head": 6, "n_inner": 250, "n_positions": 64, "vocab_size": 257,
 "embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1}
END
