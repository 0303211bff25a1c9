"""PyTorch's side of a training: a plain GPT-2 of peer_torch.py's blocks, head tied, cross-entropy, clipped gradients, AdamW.

Started by compare_train.py with a line of JSON: sizes, tokens, rates. It answers lines: {"steps": N} makes as many steps more, and
answers the seconds and the loss of each, and the most memory that the process has had. Batches are those that weft draws of the
same seed; "weights", a model.safetensors of GPT-2, is where it starts, if given: the losses are then weft's, to rounding.
"""

import json
import resource
import struct
import sys
import time

from case import Case


def windows(asked, count, step):
    """Where weft's sequences of a step begin (host/cli/train_data.c): splitmix64."""
    mask = 2**64 - 1
    state = (asked["seed"] * 0x9E3779B97F4A7C15 + step) & mask
    for _ in range(asked["batch"]):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        yield int(((z ^ z >> 31) >> 11) * 2.0**-53 * (count - asked["sequence"]))


def batch(asked, tokens, step):
    rows = torch.stack([tokens[first : first + asked["sequence"] + 1] for first in windows(asked, len(tokens), step)]).long()
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def define_model():
    """After torch is there."""
    global Gpt2

    class Gpt2(torch.nn.Module):
        def __init__(self, config, asked):
            super().__init__()
            hidden = config["n_embd"]
            sizes = f"b{asked['batch']}s{asked['sequence']}h{hidden}a{config['n_head']}f{config.get('n_inner') or 4 * hidden}"
            case = Case(f"block:f32:{sizes}:gelu_tanh.layernorm.causal:train")
            self.wte = torch.nn.Embedding(config["vocab_size"], hidden)
            self.wpe = torch.nn.Embedding(config["n_positions"], hidden)
            self.h = torch.nn.ModuleList(peer_torch.Block(case) for _ in range(config["n_layer"]))
            self.ln_f = torch.nn.LayerNorm(hidden, eps=1e-5)
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.02)
            for block in self.h:
                for linear in (block.qkv, block.proj, block.fc1, block.fc2):
                    torch.nn.init.zeros_(linear.bias)
            self.register_buffer("position", torch.arange(asked["sequence"]))

        def forward(self, tokens, targets):
            x = self.wte(tokens) + self.wpe(self.position)
            for block in self.h:
                x = block(x)
            logits = F.linear(self.ln_f(x), self.wte.weight)
            return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def load(model, path):
    """GPT-2's names and its matrices, [in, out]."""
    names = {"ln_1": "norm1", "attn.c_attn": "qkv", "attn.c_proj": "proj", "ln_2": "norm2", "mlp.c_fc": "fc1", "mlp.c_proj": "fc2"}
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    own = dict(model.named_parameters())
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name in ("__metadata__", "lm_head.weight"):
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        value = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).view(entry["shape"])
        name = name.removeprefix("transformer.")
        for theirs, ours in names.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        if name.startswith("h.") and value.dim() == 2:
            value = value.t()
        own.pop(name).data.copy_(value)
    if own:
        raise ValueError(f"{path} has no {', '.join(own)}")


def groups(parameters, decay):
    """Matrices decay, vectors do not."""
    return [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}]


def fastest_adamw(asked):
    """Which of AdamW's forms this CPU updates 7 M parameters fastest with."""
    best = None
    for how in ("fused", "foreach"):
        some = [torch.nn.Parameter(torch.zeros(1024, 768)) for _ in range(9)]
        for p in some:
            p.grad = torch.ones_like(p)
        try:
            optimizer = torch.optim.AdamW(some, lr=asked["lr"], **{how: True})
            times = []
            for _ in range(5):
                begin = time.perf_counter()
                optimizer.step()
                times.append(time.perf_counter() - begin)
        except RuntimeError:  # an older PyTorch fuses on GPUs only
            continue
        if best is None or min(times) < best[1]:
            best = how, min(times)
    return best[0]


def train(asked):
    """A function that makes the next step: the seconds that it took, drawing the batch left out as weft does, and its loss."""
    torch.manual_seed(asked["seed"])
    tokens = torch.from_numpy(numpy.fromfile(asked["tokens"], dtype=numpy.int32))
    model = Gpt2(asked["config"], asked)
    if asked.get("weights"):
        load(model, asked["weights"])
    parameters = list(model.parameters())
    how = fastest_adamw(asked)
    grouped = groups(parameters, asked["weight_decay"])
    optimizer = torch.optim.AdamW(grouped, lr=asked["lr"], betas=(0.9, 0.999), eps=1e-8, **{how: True})
    forward = torch.compile(model) if asked["compiled"] else model
    done = 0

    def step():
        nonlocal done
        inputs, targets = batch(asked, tokens, done)
        done += 1
        begin = time.perf_counter()
        loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, asked["clip"], foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = loss.item()
        return time.perf_counter() - begin, loss

    return step, sum(p.numel() for p in parameters), how


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    global torch, F, numpy, peer_torch
    asked = json.loads(sys.argv[1])
    try:
        import numpy
        import peer_torch
        import torch
        import torch.nn.functional as F
    except (ImportError, OSError) as error:
        print(json.dumps({"absent": str(error)}), flush=True)
        return
    define_model()
    imported = peak_bytes()
    torch.set_num_threads(asked["threads"])
    step, parameters, how = train(asked)
    version = f"{peer_torch.version()}{', compiled' if asked['compiled'] else ''}, AdamW {how}"
    print(json.dumps({"version": version, "parameters": parameters, "imported_bytes": imported}), flush=True)
    for line in sys.stdin:
        seconds, losses = zip(*(step() for _ in range(json.loads(line)["steps"])))
        print(json.dumps({"seconds": seconds, "losses": losses, "memory_bytes": peak_bytes()}), flush=True)


main()
