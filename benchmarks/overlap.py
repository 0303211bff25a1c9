#!/usr/bin/env python3
"""What exchanges cost, and how much of a link's time computing hides.

    benchmarks/overlap.py --weft ./weft block:f32:b1s2048h1024a16:gelu.layernorm.causal:train tp2.sp tp2.sp.chunks4

Per layout in turns, round by round, the ratios taken within a round: `cut`, exchanges that move nothing; `free`, over each
transport as it is; `link`, over an emulated link (WEFT_LINK) that is so fast that a rank's messages take half as long as `cut`; and
`instant`, over a link that takes no time. Printed, medians with quartiles: free / cut, and the part of the link's time that is
hidden, 1 - (link - instant) / (time on the link); and with cut instead of instant, whose ranks do not wait for each other: on
a machine that others use the one that they slow down is waited for, however fast the link. A rank's bytes are the closed forms
of ARCHITECTURE.md, per layer: tpN.sp and cpNring. Under cp the step's sum of gradients over ranks is not counted: take a case of
`forward`, or long sequences.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys


def sizes_of(case):
    n = {name: int(value) for name, value in re.findall(r"([a-z]+)(\d+)", case.split(":")[2])}
    n.setdefault("kv", n["a"])
    n.setdefault("d", n["h"] // n["a"])
    n.setdefault("l", 1)
    return n | {"train": case.endswith(":train"), "causal": ".causal" in case}


def bytes_of(case, layout):
    """The most that a rank sends, or receives."""
    n = sizes_of(case)
    tp = int((re.search(r"(?:^|\.)tp(\d+)", layout) or [0, 1])[1])
    ring = int((re.search(r"(?:^|\.)cp(\d+)ring", layout) or [0, 1])[1])
    elements = 0
    if tp > 1 and ".sp" in layout:
        elements += (10 if n["train"] else 4) * (tp - 1) / tp * n["s"] / ring * n["b"] * n["h"]
    if ring > 1:
        chunk = n["s"] / (2 * ring if n["causal"] else ring)
        keys = max((ring - 1) * chunk + ((ring - q) * chunk if n["causal"] and q else 0) for q in range(ring))
        gradients = (ring - 1) * chunk + ((ring - 1) * chunk if n["causal"] else 0)
        elements += 2 * n["kv"] / tp * n["d"] * n["b"] * (2 * keys + gradients if n["train"] else keys)
    if not elements:
        sys.exit(f"overlap.py: {layout}: only tpN.sp and cpNring are counted")
    return 4 * n["l"] * elements


def time_of(weft, case, layout, seconds, link=None, transport=None):
    environment = dict(os.environ)
    for name, value in (("WEFT_LINK", link), ("WEFT_TRANSPORT", transport)):
        environment.pop(name, None)
        if value:
            environment[name] = value
    done = subprocess.run([weft, "bench", case, "--layout", layout, "--json", "--seconds", str(seconds)], stdout=subprocess.PIPE,
                          text=True, env=environment)
    if done.returncode:
        sys.exit(f"overlap.py: weft bench {case} --layout {layout} ended with status {done.returncode}")
    return next(line["median_s"] for line in map(json.loads, done.stdout.splitlines()) if "case" in line)


def show(values):
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case")
    parser.add_argument("layout", nargs="+")
    parser.add_argument("--weft", default="./weft", help="the program (default: ./weft)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each turn")
    parser.add_argument("--transports", default="window,staged,mpi", help="of `free`, joined by commas; none: only the link")
    parser.add_argument("--latency", type=float, default=20, help="of the link, in microseconds")
    a = parser.parse_args()
    transports = [t for t in a.transports.split(",") if t]
    for layout in a.layout:
        cuts, free, hidden, of_cut = [], {t: [] for t in transports}, [], []
        for _ in range(a.rounds):
            cut = time_of(a.weft, a.case, layout, a.seconds, "cut")
            cuts.append(cut)
            for t in transports:
                free[t].append(time_of(a.weft, a.case, layout, a.seconds, None, t) / cut)
            rate = bytes_of(a.case, layout) / (cut / 2)
            linked = time_of(a.weft, a.case, layout, a.seconds, f"{a.latency}us,{rate / 1e9:.6f}GB/s")
            instant = time_of(a.weft, a.case, layout, a.seconds, "0us,1000GB/s")
            hidden.append(1 - (linked - instant) / (cut / 2))
            of_cut.append(1 - (linked - cut) / (cut / 2))
        print(f"{a.case} {layout}: cut {1e3 * statistics.median(cuts):.2f} ms")
        for t in transports:
            print(f"  {t}: its time / cut's {show(free[t])}")
        print(f"  a link of half of that time: hidden {show(hidden)}; beside cut {show(of_cut)}", flush=True)


if __name__ == "__main__":
    main()
