#!/bin/sh
# seeds.sh DIR: a few sound inputs for each target, and words of its language (DIR/NAME.dict).
set -eu
dir=$1
seed() { # target, name; the input on stdin
    mkdir -p "$dir/$1"
    cat >"$dir/$1/$2"
}
words() { # target, word...
    target=$1
    shift
    for word in "$@"; do printf '"%s"\n' "$word"; done >"$dir/$target.dict"
}
printf '{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F64","shape":[1],"data_offsets":[12,20]}}\n01234567890123456789' | seed safetensors two
printf '{"a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}\n01' | seed safetensors scalar
printf '\002\0\0\0\0\0\0\0{}' | seed safetensors raw
words safetensors dtype shape data_offsets __metadata__ F32 F16 BF16 F64 U8 9223372036854775807 18446744073709551615 :{ ],
printf '{"metadata":{"total_size":1},"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}' | seed index two
words index weight_map .safetensors ../ metadata
printf '{"model_type":"gpt2","n_layer":3,"n_embd":96,"n_head":6,"n_positions":64,"vocab_size":257,"n_inner":null,"activation_function":"gelu_new"}' | seed config gpt2
printf '{"model_type":"llama","num_hidden_layers":2,"hidden_size":96,"num_attention_heads":6,"num_key_value_heads":2,"intermediate_size":128,"vocab_size":257,"max_position_embeddings":64,"rms_norm_eps":1e-5,"hidden_act":"silu","rope_theta":10000.0,"tie_word_embeddings":false,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":32}}' | seed config llama
printf '{"model_type":"bert","num_hidden_layers":2,"hidden_size":96,"num_attention_heads":6,"intermediate_size":128,"vocab_size":257,"max_position_embeddings":64,"type_vocab_size":2,"layer_norm_eps":1e-12,"hidden_act":"gelu","architectures":["BertForMaskedLM"]}' | seed config bert
printf '{"model_type":"mistral","num_hidden_layers":2,"hidden_size":96,"num_attention_heads":6,"num_key_value_heads":2,"intermediate_size":128,"vocab_size":257,"max_position_embeddings":64,"sliding_window":8,"layer_types":["sliding_attention","sliding_attention"]}' | seed config mistral
printf '{"model_type":"qwen2","num_hidden_layers":2,"hidden_size":96,"num_attention_heads":6,"num_key_value_heads":2,"intermediate_size":128,"vocab_size":257,"max_position_embeddings":64,"use_sliding_window":true,"sliding_window":8,"max_window_layers":0}' | seed config qwen2
words config n_layer n_embd n_head n_positions vocab_size hidden_size num_attention_heads num_key_value_heads head_dim rope_scaling rope_theta factor sliding_window max_window_layers use_sliding_window layer_types full_attention sliding_attention 1e308 -1 null true
printf '{"version":1,"step":12,"seed":"0000000000000001","data_position":5,"data_hash":"0000000000000002","choices_hash":"0000000000000003","layout":"tp2.sp","files":{"config.json":{"bytes":10,"sha256":"0000000000000000000000000000000000000000000000000000000000000000"},"model.safetensors":{"bytes":10,"sha256":"0000000000000000000000000000000000000000000000000000000000000000"}},"check":"0"}' | seed progress one
words progress version step seed data_position data_hash choices_hash layout files bytes sha256 check optimizer.safetensors
printf 'tp4.sp.cp2ring.dp2' | seed layout all
printf 'cp8usp2.zero1.pp4.vp2.mb16.1f1b.ep4.recompute-full.chunks4.offload-activations' | seed layout more
words layout tp sp cp ring ulysses gather usp dp zero pp vp mb gpipe 1f1b pipedream ep recompute-full recompute-attention recompute-pointwise chunks offload-activations
printf 'b8s128' | seed shape one
words shape b s 9223372036854775807
printf 'gemm:f32:m512n384k1000:nt.bias\nsimple TILE_M=64' | seed case gemm
printf 'attention:f32:b1s16h2kv1d64:causal.fwd' | seed case attention
printf 'norm:f32:m3n7:' | seed case norm
printf 'block:f32:b2s17h32a4kv2d16f65l2w5:silu.rmsnorm.causal.gated.rope.post-norm.no-bias:train' | seed case block
words case block layernorm rmsnorm causal gated post-norm no-bias forward train gemm attention norm adamw copy reduce rope gate cross_entropy :f32: :f16: :bf16: nt. bias gelu accumulate simple panel tile clblast TILE_M=
printf '\0\001\0\0\0\002\0\0\0' | seed tokens int32
printf 'cHello, world.\n\nAnother paragraph.\n' | seed tokens text
{ printf "\003\223NUMPY\001\0v\0{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }"; printf '%60s\n' ' '; printf '\001\0\0\0\002\0\0\0'; } | seed tokens npy
words tokens NUMPY descr fortran_order shape False True '<i4' '<u2' '<i8' '(2,)'
printf "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }\n\001\0\0\0\002\0\0\0" | seed npy int32
printf "{'descr': '<u2', 'fortran_order': False, 'shape': (3,), } \n\001\0\002\0\377\0" | seed npy uint16
printf "{\"shape\": (1,), \"fortran_order\": True, \"descr\": \"<i8\"}\n\377\0\0\0\0\0\0\0" | seed npy int64
printf "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }\n0000" | seed npy matrix
{ printf "\223NUMPY\003\0\070\0\0\0{'descr':'|u1','fortran_order':False,'shape':(),}"; printf '%8s\n0' ' '; } | seed npy scalar
words npy descr fortran_order shape False True '<i4' '<u2' '<i8' '(2,)' '()' 9223372036854775807 '(1,1,1,1,1,1,1,1,1)'
{ printf 'weft program 1\n\0'; printf '\005\0\0\0\0\0\0\0'; printf '%64s' ' '; printf 'bytes'; } | seed cache one
words cache 'weft program 1'
