#!/bin/sh
# Layouts of a llama equal one rank: two kv heads, one of which two ranks of three hold, and three of four.
. "$(dirname "$0")/layouts_family.sh" <<'END'
{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2,
 "intermediate_size": 125, "max_position_embeddings": 64, "vocab_size": 257, "attention_dropout": 0.1,
 "rope_scaling": {"rope_type": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 4,
                  "original_max_position_embeddings": 64}}
END
