#!/bin/sh
# Layouts of a bert equal one rank.
. "$(dirname "$0")/layouts_family.sh" <<'END'
{"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 6, "intermediate_size": 250,
 "max_position_embeddings": 64, "vocab_size": 257, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
END
