#!/bin/sh
# Layouts of a mistral equal one rank: a window of 23 positions, less than half of the sequence; three kv heads.
. "$(dirname "$0")/layouts_family.sh" <<'END'
{"model_type": "mistral", "num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3,
 "intermediate_size": 125, "max_position_embeddings": 64, "vocab_size": 257, "attention_dropout": 0.1, "sliding_window": 23}
END
