"""weft against the `transformers` library, on tiny random models that the library writes.

    check_oracles.py FOLDER MPIRUN ORACLE_RANKS WEFT [MODEL...]

For each model (all of them): the library's logits, last hidden states and gradients in f64 are the truth; weft's, on 1, 2 and 3
ranks, may differ by 1e-5 of a tensor's largest magnitude, and what the command `weft run` writes to a file as well; its
greedy sample is the library's, token by token. Models that weft writes again must hold the same bits under
the same names, whatever the layout. Scalings of rotary positions that the library knows and weft does not are refused, and
windows of some layers only. Each comparison is shown to see a fault: one element of each weight, or of one gradient, changed in
the truth, or a window one key too long. Prints one line in Check's format; the exit status is 1 if a check failed.

What it does not do: dropout, training, models of other families."""
import copy
import filecmp
import json
import os
import shlex
import subprocess
import sys

import numpy
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

BAR = 1e-5
BATCH, SEQUENCE, VOCABULARY = 3, 37, 131
LAYOUTS = {1: ["tp1"], 2: ["tp2", "tp2.sp"], 3: ["tp3.mb3", "tp3.sp"]}

checks = failures = 0
worst = {}


def expect(fine, sentence):
    global checks, failures
    checks += 1
    failures += not fine
    if not fine:
        print("FAILED:", sentence, flush=True)


# ---- models: sizes that divide nothing, every weight random (a 1 or a 0 would hide a swapped name), no dropout, as
# gradients are taken with it ------------------------------------------------------------------------------------

def gpt2(**more):
    return transformers.GPT2Config(n_embd=96, n_layer=2, n_head=6, n_inner=154, vocab_size=VOCABULARY, n_positions=64,
                                   resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **more)


def llama(**more):
    form = dict(hidden_size=96, intermediate_size=154, num_hidden_layers=2, num_attention_heads=6,
                num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=64, tie_word_embeddings=False)
    return transformers.LlamaConfig(**{**form, **more})


def other(kind, **more):
    return kind(**{**llama().to_dict(), "model_type": kind.model_type, "architectures": None, **more})


def bert(**more):
    return transformers.BertConfig(hidden_size=96, intermediate_size=154, num_hidden_layers=2, num_attention_heads=6,
                                   vocab_size=VOCABULARY, max_position_embeddings=64,
                                   hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **more)


LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)

LINEAR_ROPE = dict(rope_type="linear", rope_theta=20000.0, factor=2.5)

# name: (class of the library, its configuration, how it is stored, what is compared). "shards": cut into several
# files; "old": with the rotary positions' fields of older versions; a type: of the file's numbers, to which the weights are
# rounded.
MODELS = {
    "gpt2": (transformers.GPT2LMHeadModel, gpt2(), "", ("logits", "hidden", "gradients")),
    "gpt2-untied": (transformers.GPT2LMHeadModel, gpt2(activation_function="gelu", tie_word_embeddings=False), "",
                    ("logits", "gradients")),
    "llama": (transformers.LlamaForCausalLM, llama(), "shards", ("logits", "hidden", "gradients")),
    # one kv head; heads wider than hidden / heads; biases; scaled rotary positions; a tied head
    "llama-other": (transformers.LlamaForCausalLM,
                    llama(num_key_value_heads=1, head_dim=20, attention_bias=True, mlp_bias=True,
                          tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE), "bfloat16", ("logits", "gradients")),
    "llama-linear": (transformers.LlamaForCausalLM, llama(rope_parameters=LINEAR_ROPE), "", ("logits", "gradients")),
    "qwen2-linear": (transformers.Qwen2ForCausalLM, other(transformers.Qwen2Config, rope_parameters=LINEAR_ROPE), "old",
                     ("logits", "gradients")),
    # groups of two: on three ranks each has its own kv head, on two a group is cut
    "llama-groups": (transformers.LlamaForCausalLM, llama(num_key_value_heads=3), "", ("logits", "gradients")),
    # no window; biases of q, k, v alone
    "mistral": (transformers.MistralForCausalLM, other(transformers.MistralConfig, sliding_window=None), "float16 shards",
                ("logits", "gradients")),
    "qwen2": (transformers.Qwen2ForCausalLM, other(transformers.Qwen2Config), "", ("logits", "gradients")),
    # windows that are shorter than the text, and than both layers' reach
    "mistral-window": (transformers.MistralForCausalLM, other(transformers.MistralConfig, sliding_window=9), "",
                       ("logits", "hidden", "gradients")),
    "qwen2-window": (transformers.Qwen2ForCausalLM, other(transformers.Qwen2Config, use_sliding_window=True, sliding_window=16,
                                                          max_window_layers=0), "", ("logits", "gradients")),
    "bert-masked": (transformers.BertForMaskedLM, bert(), "", ("logits", "hidden", "gradients")),
    "bert": (transformers.BertModel, bert(), "", ("hidden",)),
}


def window_of(model):
    return getattr(model.config, "sliding_window", None)


def written_as(model):
    """Without a window a mistral is a llama."""
    name = type(model).__name__
    return "LlamaForCausalLM" if name == "MistralForCausalLM" and window_of(model) is None else name


def make(kind, config):
    generator = torch.Generator().manual_seed(20)
    options = {"add_pooling_layer": False} if kind is transformers.BertModel else {}
    config._attn_implementation = "eager"
    model = kind(config, **options)
    with torch.no_grad():
        for tensor in model.parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() == 2:
                tensor.copy_(noise * 0.12)
            else:
                tensor.add_(noise * 0.2)
    return model.eval()


def write_as_older_versions(folder, config):
    """rope_theta, and rope_scaling with a "type": which the library still reads as the same."""
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        fields = json.load(file)
    rope = fields.pop("rope_parameters")
    fields["rope_theta"] = rope.pop("rope_theta")
    fields["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    with open(path, "w") as file:
        json.dump(fields, file)
    again = transformers.AutoConfig.from_pretrained(folder).rope_parameters
    for name, value in config.rope_parameters.items():
        expect(again[name] == value, f"{folder}: {name} written as older versions do is {again[name]}")


# ---- the truth --------------------------------------------------------------------------------------------------

def truth_of(model, tokens, targets, what):
    model = model.double()
    results = {}
    if "gradients" in what:
        model.zero_grad()
        logits = model(tokens).logits
        flat = torch.where(targets < 0, -100, targets).reshape(-1)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), flat, ignore_index=-100)
        loss.backward()
        results["gradients"] = {("loss", 0): loss.detach().reshape(1, 1).numpy(), **gradients_of(model)}
    with torch.no_grad():
        if "logits" in what:
            results["logits"] = {("logits", 0): model(tokens).logits.reshape(-1, VOCABULARY).numpy()}
        if "hidden" in what:
            states = model.base_model(tokens).last_hidden_state
            results["hidden"] = {("hidden", 0): states.reshape(-1, states.shape[-1]).numpy()}
    return results


def gradients_of(model):
    """By weft's names: linear layers [out, in]; q, k, v and gate, up as one tensor."""
    grads = {name: tensor.grad.numpy() for name, tensor in model.named_parameters()}
    result = {}

    def put(name, layer, *parts):
        whole = numpy.concatenate(parts)
        result[name, layer] = whole.reshape(whole.shape[0], -1)

    def both(name, layer, *theirs):
        for form in ("weight", "bias"):
            if theirs[0] + "." + form in grads:
                put(f"{name}.{form}", layer, *[grads[one + "." + form] for one in theirs])

    if model.config.model_type == "gpt2":
        put("embedding.token", 0, grads["transformer.wte.weight"])
        put("embedding.position", 0, grads["transformer.wpe.weight"])
        for i in range(model.config.n_layer):
            at = f"transformer.h.{i}."
            both("layer.norm1", i, at + "ln_1")
            both("layer.norm2", i, at + "ln_2")
            for name, theirs in (("attn.qkv", "attn.c_attn"), ("attn.proj", "attn.c_proj"), ("mlp.fc1", "mlp.c_fc"),
                                 ("mlp.fc2", "mlp.c_proj")):
                put(f"layer.{name}.weight", i, grads[at + theirs + ".weight"].T)
                put(f"layer.{name}.bias", i, grads[at + theirs + ".bias"])
        both("normf", 0, "transformer.ln_f")
    elif model.config.model_type == "bert":
        put("embedding.token", 0, grads["bert.embeddings.word_embeddings.weight"])
        put("embedding.position", 0, grads["bert.embeddings.position_embeddings.weight"])
        put("embedding.type", 0, grads["bert.embeddings.token_type_embeddings.weight"])
        both("embedding.norm", 0, "bert.embeddings.LayerNorm")
        for i in range(model.config.num_hidden_layers):
            at = f"bert.encoder.layer.{i}."
            both("layer.attn.qkv", i, *[at + "attention.self." + x for x in ("query", "key", "value")])
            both("layer.attn.proj", i, at + "attention.output.dense")
            both("layer.norm1", i, at + "attention.output.LayerNorm")
            both("layer.mlp.fc1", i, at + "intermediate.dense")
            both("layer.mlp.fc2", i, at + "output.dense")
            both("layer.norm2", i, at + "output.LayerNorm")
        both("head.transform", 0, "cls.predictions.transform.dense")
        both("head.transform.norm", 0, "cls.predictions.transform.LayerNorm")
        put("head.bias", 0, grads["cls.predictions.bias"])
    else:
        put("embedding.token", 0, grads["model.embed_tokens.weight"])
        both("normf", 0, "model.norm")
        for i in range(model.config.num_hidden_layers):
            at = f"model.layers.{i}."
            both("layer.norm1", i, at + "input_layernorm")
            both("layer.norm2", i, at + "post_attention_layernorm")
            both("layer.attn.qkv", i, *[f"{at}self_attn.{x}_proj" for x in "qkv"])
            both("layer.attn.proj", i, at + "self_attn.o_proj")
            both("layer.mlp.fc1", i, at + "mlp.gate_proj", at + "mlp.up_proj")
            both("layer.mlp.fc2", i, at + "mlp.down_proj")
    if "lm_head.weight" in grads:
        put("head.weight", 0, grads["lm_head.weight"])
    return result


# ---- comparing --------------------------------------------------------------------------------------------------

def records(path):
    result = {}
    with open(path, "rb") as file:
        while line := file.readline():
            name, instance, rows, columns = line.split()
            shape = int(rows), int(columns)
            data = numpy.frombuffer(file.read(4 * shape[0] * shape[1]), dtype=numpy.float32)
            result[name.decode(), int(instance)] = data.reshape(shape)
    return result


def distance(ours, truth):
    """Largest difference over the largest magnitude; infinite for a NaN."""
    if ours.shape != truth.shape:
        return numpy.inf
    difference = numpy.abs(ours.astype(numpy.float64) - truth).max()
    return difference / numpy.abs(truth).max() if numpy.isfinite(difference) else numpy.inf


def compare(ours, truth, title):
    expect(set(ours) == set(truth), f"{title}: tensors {sorted(set(ours) ^ set(truth))} are not on both sides")
    for key in sorted(set(ours) & set(truth)):
        far = distance(ours[key], truth[key])
        mode = title.split()[0]
        worst[mode] = max(worst.get(mode, (0, "")), (far, f"{title}, {key[0]} {key[1]}"))
        expect(far <= BAR, f"{title}: {key[0]} {key[1]} differs by {far:.3g} of its largest magnitude")


def see_changed_weights(model, tokens, truth, name, ours):
    """One element of each weight, changed by a tenth of its largest, must be seen in what the forward pass gives."""
    mode = "logits" if "logits" in ours else "hidden"
    for weight, tensor in model.named_parameters():
        if weight.endswith("key.bias"):  # adds the same to all scores of a row: the softmax does not see it
            continue
        with torch.no_grad():
            row = int(tokens[0, 3]) if tensor.shape[0] == VOCABULARY else 0
            at = (row, 1)[:tensor.dim()]
            kept = tensor[at].item()
            tensor[at] += 0.1 * tensor.abs().max()
            changed = truth_of(model, tokens, None, (mode,))[mode][mode, 0]
            tensor[at] = kept
        expect(distance(ours[mode][mode, 0], changed) > BAR, f"{name}: a change of {weight} is not seen")


def see_changed_window(model, tokens, name, ours):
    """A window that is one key shorter or longer, or none, must be seen."""
    window, positions = window_of(model), model.config.max_position_embeddings
    for wrong in (window - 1, window + 1, positions):
        model.config.sliding_window = wrong
        changed = truth_of(model, tokens, None, ("logits",))["logits"]["logits", 0]
        expect(distance(ours["logits"]["logits", 0], changed) > BAR, f"{name}: a window of {wrong} is not seen")
    model.config.sliding_window = window


def see_changed_gradients(ours, truth, name):
    for key, gradient in truth.items():
        changed = gradient.copy()
        changed[-1, -1] += 3 * BAR * numpy.abs(gradient).max()
        expect(distance(ours[key], changed) > BAR, f"{name}: a changed gradient of {key} is not seen")


def same_weights(model, folder, title):
    """The library opens the folder, misses nothing, and has the same bits and the same logits."""
    options = {"add_pooling_layer": False} if type(model) is transformers.BertModel else {}
    wanted, config = written_as(model), transformers.AutoConfig.from_pretrained(folder)
    expect(config.architectures == [wanted], f"{title}: architectures {config.architectures}")
    window = getattr(config, "sliding_window", None)
    expect(window == window_of(model), f"{title}: sliding_window {window}")
    kind = getattr(transformers, wanted)
    again, info = kind.from_pretrained(folder, output_loading_info=True, attn_implementation="eager", **options)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        expect(not info[what], f"{title}: {what} {info[what]}")
    theirs, mine = again.state_dict(), model.float().state_dict()
    expect(set(theirs) == set(mine), f"{title}: names {set(theirs) ^ set(mine)}")
    for name in set(theirs) & set(mine):
        expect(torch.equal(theirs[name], mine[name]), f"{title}: {name} is not what it was")
    return again.eval()


# ---- the run ----------------------------------------------------------------------------------------------------

def main(folder, mpirun, program, command, *only):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(21)
    tokens = torch.randint(0, VOCABULARY, (BATCH, SEQUENCE), generator=generator)
    targets = torch.randint(0, VOCABULARY, (BATCH, SEQUENCE), generator=generator)
    targets[torch.rand((BATCH, SEQUENCE), generator=generator) < 0.2] = -1
    text = os.path.join(folder, "tokens")
    with open(text, "wb") as file:
        head = numpy.array([BATCH, SEQUENCE], dtype=numpy.int32)
        for part in (head, tokens.numpy(), targets.numpy()):
            file.write(part.astype(numpy.int32).tobytes())
    check_refusals(folder, command)
    check_windows(folder, command)
    models = {}
    for name in only or MODELS:
        kind, config, stored, _ = MODELS[name]
        models[name] = file = make(kind, config)
        for word in set(stored.split()) - {"shards", "old"}:  # of a copy, whose table of angles is rounded, too
            file = copy.deepcopy(models[name]).to(getattr(torch, word))
            models[name].load_state_dict(file.state_dict())
        file.save_pretrained(os.path.join(folder, name), max_shard_size="100KB" if "shards" in stored else "1GB")
        if "old" in stored:
            write_as_older_versions(os.path.join(folder, name), config)
    for ranks, layouts in LAYOUTS.items():
        jobs = os.path.join(folder, "jobs")
        with open(jobs, "w") as file:
            for name in models:
                for layout in layouts:
                    for mode in MODELS[name][3] + ("save",):
                        out = os.path.join(folder, f"{mode}.{name}.{layout}")
                        print(mode, os.path.join(folder, name), layout, text, out, file=file)
        run = subprocess.run(["timeout", "300", *shlex.split(mpirun), "-np", str(ranks), program, jobs])
        expect(run.returncode == 0, f"{ranks} ranks end with status {run.returncode}")
        if run.returncode:
            return
    for name, model in models.items():
        truth = check_model(folder, name, model, tokens, targets)
        check_command(folder, name, command, tokens, truth, model)


def weft(command, *arguments):
    run = subprocess.run(["timeout", "120", command, "run", "--ranks", "2", *arguments], capture_output=True, text=True)
    expect(run.returncode == 0, f"{command} run {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout


def check_command(folder, name, command, tokens, truth, model):
    path, ids, out = os.path.join(folder, name), os.path.join(folder, "ids"), os.path.join(folder, "out.npy")
    tokens.numpy().astype(numpy.int32).tofile(ids)
    for mode in set(truth) - {"gradients"}:
        weft(command, "--model", path, "--tokens", ids, "--window", str(SEQUENCE), "--" + mode, out)
        compare({(mode, 0): numpy.load(out)}, truth[mode], f"{mode} of {name} by the command")
    if model.config.model_type == "bert":
        return
    drawn = tokens[0, :20].tolist()
    numpy.array(drawn, dtype=numpy.int32).tofile(ids)
    said = weft(command, "--model", path, "--tokens", ids, "--sample", "8", "--temperature", "0")
    with torch.no_grad():
        for _ in range(8):
            drawn.append(int(model(torch.tensor([drawn])).logits[0, -1].argmax()))
    expect(said.split() == [str(token) for token in drawn], f"{name}: the command goes on with {said}, not {drawn}")


def check_windows(folder, command):
    """Of a qwen2 the library gives the window to the layers from max_window_layers on: of two to both, to none, or weft refuses it."""
    for full, kinds in enumerate(({"sliding_attention"}, {"full_attention", "sliding_attention"}, {"full_attention"})):
        path = os.path.join(folder, f"windows-{full}.json")
        config = other(transformers.Qwen2Config, use_sliding_window=True, sliding_window=16, max_window_layers=full)
        expect(set(config.layer_types) == kinds, f"of {full} full layers the library makes {config.layer_types}")
        for written in ({}, {"layer_types": None}):  # as this version writes it, and as older ones did
            with open(path, "w") as file:
                json.dump({**config.to_dict(), **written}, file)
            run = subprocess.run(["timeout", "60", command, "plan", "--model", path, "--shape", "b1s32"], capture_output=True, text=True)
            expect(run.returncode == (2 if len(kinds) > 1 else 0), f"{full} full layers: status {run.returncode}, {run.stderr.strip()}")


def check_refusals(folder, command):
    """Every scaling of rotary positions that this version of the library knows is computed or refused by name."""
    known = {"default", "linear", "llama3"}
    expect(set(ROPE_INIT_FUNCTIONS) > known - {"default"}, f"the library's scalings are {sorted(ROPE_INIT_FUNCTIONS)}")
    for kind in sorted(known | set(ROPE_INIT_FUNCTIONS)):
        path = os.path.join(folder, f"scaling-{kind}.json")
        with open(path, "w") as file:
            json.dump({**llama().to_dict(), "rope_parameters": {**LLAMA3_ROPE, "rope_type": kind}}, file)
        run = subprocess.run(["timeout", "60", command, "plan", "--model", path, "--shape", "b1s8"], capture_output=True, text=True)
        if kind in known:
            expect(run.returncode == 0, f"scaling {kind}: {run.stderr.strip()}")
        else:
            expect(run.returncode == 2 and f'rope_type is "{kind}"' in run.stderr and run.stderr.count("\n") == 1,
                   f"scaling {kind}: status {run.returncode}, {run.stderr.strip()}")


def check_model(folder, name, model, tokens, targets):
    what = MODELS[name][3]
    first = os.path.join(folder, f"save.{name}.tp1")
    again = same_weights(model, first, f"{name} written again")
    truth = truth_of(model, tokens, targets, what)
    forward = tuple(mode for mode in what if mode != "gradients")
    for mode, result in truth_of(again, tokens, None, forward).items():
        same = numpy.array_equal(result[mode, 0], truth[mode][mode, 0])
        expect(same, f"{name} written again: its {mode} are not what they were")
    ours = {}
    for layout in (layout for some in LAYOUTS.values() for layout in some):
        for mode in what:
            ours[mode] = records(os.path.join(folder, f"{mode}.{name}.{layout}"))
            compare(ours[mode], truth[mode], f"{mode} of {name} under {layout}")
        for file in ("config.json", "model.safetensors"):
            there = os.path.join(folder, f"save.{name}.{layout}", file)
            expect(filecmp.cmp(os.path.join(first, file), there, shallow=False),
                   f"{name}: {file} written under {layout} differs from tp1's")
    see_changed_weights(model, tokens, truth, name, ours)
    if window_of(model):
        see_changed_window(model, tokens, name, ours)
    if "gradients" in what:
        see_changed_gradients(ours["gradients"], truth["gradients"], name)
    return truth


main(*sys.argv[1:])
for mode, (far, where) in sorted(worst.items()):
    print(f"worst {mode}: {far:.3g} of the largest magnitude ({where})")
print(f"{100 * (checks - failures) // max(checks, 1)}%: Checks: {checks}, Failures: {failures}, Errors: 0")
sys.exit(failures > 0)
