#!/usr/bin/env python3
"""The longest sequence that trains in a given memory, by layout.

    benchmarks/longest.py --weft ./weft --gib 1 --model config.json --text corpus.txt tp1 cp2ring cp4ring

Bisected between what `weft train` begins and what it refuses for want of memory, to 0.2%; then two steps are run at that length.
Printed: tokens, and that number over ranks times the first layout's. --plan asks `weft plan` instead, which needs no device, counts no
workspace of its kernels, and runs nothing. Without --plan the device must be PoCL's, whose memory POCL_MEMORY_LIMIT sets in whole GiB,
of which each rank on a node gets its share.
"""

import argparse
import os
import re
import subprocess
import sys


def ranks_of(layout):
    ranks = 1
    for n in re.findall(r"(?:^|\.)(?:tp|cp)(\d+)", layout):
        ranks *= int(n)
    return ranks


def train(a, layout, tokens, steps):
    command = [a.weft, "train", "--model", a.model, "--text", a.text, "--layout", layout, "--batch", "1", "--sequence", str(tokens),
               "--steps", str(steps), "--evaluate-batches", "0"]
    environment = dict(os.environ, POCL_MEMORY_LIMIT=str(a.gib * ranks_of(layout)))
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def refused(line, layout, tokens):
    if (" needs " in line and " to give" in line) or " do not fit" in line:
        return True
    sys.exit(f"longest.py: {layout}, {tokens} tokens: {line.strip()}")


def fits(a, layout, tokens):
    if a.plan:
        command = [a.weft, "plan", "--model", a.model, "--shape", f"b1s{tokens}", "--layout", layout, "--memory", str(a.gib)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return done.returncode == 0 or not refused(done.stderr, layout, tokens)
    process = train(a, layout, tokens, 1)
    line = process.stderr.readline() # a refusal, or what it is about to train
    os.killpg(process.pid, 9)
    process.communicate()
    return not line.startswith("weft:") or not refused(line, layout, tokens)


def longest(a, layout):
    low, high = 16, 32
    while fits(a, layout, high):
        low, high = high, 2 * high
    while high - low > 1 + low // 512:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(a, layout, middle) else (low, middle)
    return low


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", nargs="+")
    parser.add_argument("--weft", default="./weft", help="the program (default: ./weft)")
    parser.add_argument("--gib", type=int, default=1, help="of each rank")
    parser.add_argument("--model", required=True, help="config.json, which allows for long sequences")
    parser.add_argument("--text", help="longer than the sequences")
    parser.add_argument("--plan", action="store_true", help="by `weft plan`")
    a = parser.parse_args()
    if not a.plan and not a.text:
        parser.error("without --plan a --text is needed")
    first = None
    for layout in a.layout:
        tokens = longest(a, layout)
        first = first or tokens / ranks_of(layout)
        print(f"{layout}: {tokens} tokens, {tokens / ranks_of(layout) / first:.3f} of proportion", flush=True)
        if not a.plan:
            process = train(a, layout, tokens, 2)
            said = process.communicate()[1].strip().splitlines()
            if process.returncode:
                sys.exit(f"longest.py: {layout}: two steps at this length ended with status {process.returncode}: {said[-1]}")
            print(f"  {said[-1]}", flush=True)


if __name__ == "__main__":
    main()
