#!/usr/bin/env python3
"""`weft train` beside the same loop in PyTorch, on the same cores, tokens and batches: tokens a second and memory.

    benchmarks/peers/compare_train.py --weft ./weft --text FILE --model gpt2 --batch 4 --sequence 512 --steps 8

Rounds: in each weft makes N steps from the start under every layout (tp1: one rank of all cores), then every peer N steps more,
the others being stopped. The first two steps of a turn do not count; the turn's figure is the median of the rest, the ratio is a side's seconds a
step / those of weft's first layout within the round (above 1: weft is faster), printed is the median with its interval as in compare.py. Memory: the most
that the process had (ru_maxrss); weft's buffers on a CPU device are in it, and what PyTorch's import alone takes is said apart.

Alike on both sides: sizes, f32, no dropout, head tied, tokens (the bytes of the text, as ids), batches, clipping, AdamW and its
rates; the same number of parameters is required. Peers: torch (eager), compile (torch.compile). --check starts both from the same
weights and compares the losses of N steps, and times nothing. Exit status 77 if PyTorch is not there.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from turns import Peer, end_on_sigterm, interval, present_of, write_json

UNCOUNTED = 2
GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12,
        "n_positions": 1024, "vocab_size": 50257}
NO_DROPOUT = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
COMPUTED = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
TOLERANCE = 1e-4  # of a loss: f32, whose steps spread the rounding of one to the next


def write_model(name, folder):
    """The config.json that both read."""
    config = GPT2
    if name != "gpt2":
        with open(name, encoding="utf-8") as file:
            config = json.load(file)
    for field, only in COMPUTED.items():
        if config.get(field, only) != only:
            raise SystemExit(f"compare_train.py: {name}: {field} is {config[field]!r}, but train_torch.py computes {only!r}")
    config = config | NO_DROPOUT
    path = os.path.join(folder, "config.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    return config, path


def write_tokens(text, folder):
    """Raw int32, an id a byte."""
    path = os.path.join(folder, "tokens")
    with open(text, "rb") as file, open(path, "wb") as out:
        for line in file:
            out.write(b"".join(bytes((byte, 0, 0, 0)) for byte in line))
    return path


def run_weft(words):
    """Its lines of JSON, and the most memory that it had."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, stdout=out, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        said.seek(0)
        if status:
            code, end = os.waitstatus_to_exitcode(status), said.read()[-500:].strip()
            raise SystemExit(f"compare_train.py: {' '.join(words[:2])} ended with status {code}: {end}")
        return [json.loads(line) for line in out], usage.ru_maxrss * 1024


def train_words(a, layout, tokens, steps, *more):
    return [a.weft, "train", "--tokens", tokens, "--token-type", "int32", "--layout", layout, "--batch", str(a.batch),
            "--sequence", str(a.sequence), "--steps", str(steps), "--seed", str(a.seed), "--clip", str(a.clip),
            "--evaluate-batches", "0", "--json", *more]


def weft_turn(a, layout, model, tokens):
    rows, peak = run_weft(train_words(a, layout, tokens, a.steps, *model, "--lr", str(a.lr), "--weight-decay", str(a.weight_decay)))
    seconds = [a.batch * a.sequence / row["tokens_per_s"] for row in rows]
    return {"seconds": seconds, "losses": [row["loss"] for row in rows], "memory_bytes": peak}


def weft_parameters(a, path):
    rows, _ = run_weft([a.weft, "plan", "--model", path, "--shape", f"b{a.batch}s{a.sequence}", "--layout", "tp1", "--json"])
    return rows[0]["ranks"][0]["bytes_by_class"]["parameter"] // 4


def same_weights(a, path, tokens, folder):
    """weft's first weights as a file: a step that moves nothing, saved."""
    saved = os.path.join(folder, "model")
    run_weft(train_words(a, "tp1", tokens, 1, "--model", path, "--lr", "1e-12", "--weight-decay", "0", "--save", saved))
    return saved


def start_peers(a, config, tokens, weights):
    threads = len(os.sched_getaffinity(0))
    asked = {name: getattr(a, name) for name in ("batch", "sequence", "seed", "lr", "weight_decay", "clip")}
    asked |= {"config": config, "tokens": tokens, "threads": threads, "weights": weights}
    for name in a.peers.split(","):
        yield Peer(name, "train_torch.py", [json.dumps(asked | {"compiled": name == "compile"})], threads)


def require_parameters(own, peers):
    for peer in peers:
        if peer.said["parameters"] != own:
            raise SystemExit(f"compare_train.py: weft has {own} parameters, {peer.name} {peer.said['parameters']}")
        print(f"{peer.name}: {peer.said['imported_bytes'] / 2**30:.2f} GiB before it has a model")
    print(f"{own} parameters on every side")


def check(a, saved, tokens, peers):
    own = {layout: weft_turn(a, layout, ["--from", saved], tokens)["losses"] for layout in a.layouts.split(",")}
    good = True
    for peer in peers:
        theirs = peer.ask({"steps": a.steps})["losses"]
        for layout, losses in own.items():
            worst = max(abs(x - y) / x for x, y in zip(losses, theirs))
            good = good and worst <= TOLERANCE
            print(f"{peer.name}: losses of {a.steps} steps from the same weights, weft's {losses[0]:.5f} to {losses[-1]:.5f} "
                  f"under {layout}: largest difference {worst:.1e} of it")
    return good


def summary(name, turns, weft_turns, tokens):
    step = lambda turn: statistics.median(turn["seconds"][UNCOUNTED:])
    ratios = [step(turn) / step(other) for turn, other in zip(turns, weft_turns)]
    low, high = interval(ratios)
    return {"name": name, "tokens_per_s": statistics.median(tokens / step(turn) for turn in turns),
            "memory_bytes": max(turn["memory_bytes"] for turn in turns), "ratio": statistics.median(ratios),
            "low": low, "high": high, "turns": turns}


def compare(a, path, tokens, peers):
    layouts = a.layouts.split(",")
    turns = {name: [] for name in [*(f"weft {layout}" for layout in layouts), *(peer.name for peer in peers)]}
    for peer in peers:
        peer.ask({"steps": 1})  # compiles
    for _ in range(a.rounds):
        for layout in layouts:
            turns[f"weft {layout}"].append(weft_turn(a, layout, ["--model", path], tokens))
        for peer in peers:
            turns[peer.name].append(peer.ask({"steps": a.steps}))
    for name, own in turns.items():
        yield summary(name, own, turns[f"weft {layouts[0]}"], a.batch * a.sequence)


def show(row, first):
    ratio = "" if row is first else f", its time / weft's {row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    memory = "" if row is first else f", weft's memory / its {first['memory_bytes'] / row['memory_bytes']:.3f}"
    print(f"{row['name']}: {row['tokens_per_s']:.1f} tokens/s, {row['memory_bytes'] / 2**30:.2f} GiB{ratio}{memory}")


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weft", default="./weft", help="the program (default: ./weft)")
    parser.add_argument("--text", required=True, help="any file, longer than a sequence")
    parser.add_argument("--model", default="gpt2", help="gpt2 (124 M parameters) or the config.json of another GPT-2")
    parser.add_argument("--layouts", default="tp1", help="of one rank, joined by commas (default: tp1)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8, help="of each turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", default="torch,compile", help="which, joined by commas")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="the losses from the same weights")
    parser.add_argument("--json", help="also write a line of JSON for each side to this file")
    a = parser.parse_args()
    if a.steps <= UNCOUNTED and not a.check:
        raise SystemExit(f"compare_train.py: --steps must be above {UNCOUNTED}: so many do not count")
    return a


def main():
    a = options()
    end_on_sigterm()
    peers = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            config, path = write_model(a.model, folder)
            tokens = write_tokens(a.text, folder)
            saved = same_weights(a, path, tokens, folder) if a.check else None
            for peer in start_peers(a, config, tokens, saved and os.path.join(saved, "model.safetensors")):
                peers.append(peer)
            present = present_of(peers)
            require_parameters(weft_parameters(a, path), present)
            if a.check:
                sys.exit(0 if check(a, saved, tokens, present) else 1)
            print(f"{a.model}, {a.batch} x {a.sequence} tokens a step, {len(os.sched_getaffinity(0))} threads each, "
                  f"{a.rounds} rounds of {a.steps} steps, {time.strftime('%Y-%m-%d')}")
            rows = list(compare(a, path, tokens, present))
            for row in rows:
                show(row, rows[0])
            write_json(a.json, rows)
        finally:
            for peer in peers:
                peer.end()


main()
