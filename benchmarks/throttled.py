#!/usr/bin/env python3
"""Two devices of unlike speed in one group: what shares in proportion gain over equal ones.

    benchmarks/throttled.py --weft ./weft block:f32:b1s2048h1024a16:gelu.layernorm.causal:train \\
        tp2.sp tp2.sp.tp-shares2-1 cp2ring cp2ring.cp-shares

The last of two ranks is throttled: stopped (SIGSTOP) for a part of every few milliseconds. `alone` is the case on one rank of
one core, so the sum of the two speeds is (1 + the part that runs) / alone. Per layout, in turns, the medians of the rounds with
quartiles: its speed, in parts of that sum. Shares without numbers are what weft measures at the start, which it tells. Linux only:
ranks are found by what Open MPI tells them (/proc).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time

from overlap import show


def last_rank_of(group):
    """The process of the program's last rank among those of a process group's children, or None."""
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environment = dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)
        except (OSError, ValueError):
            continue
        if environment.get(b"WEFT_THROTTLED") == group and environment.get(b"OMPI_COMM_WORLD_RANK") == b"1":
            return int(name)
    return None


def throttle(tag, runs, period_s, over):
    """Until `over` is set."""
    pid = None
    while not over.is_set():
        pid = pid or last_rank_of(tag)
        if pid is None:
            time.sleep(0.02)
            continue
        try:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(period_s * (1 - runs))
            os.kill(pid, signal.SIGCONT)
            time.sleep(period_s * runs)
        except ProcessLookupError:
            return


def time_of(a, layout, tag=None):
    environment = dict(os.environ, WEFT_TIMEOUT_S="60")
    if tag:
        environment["WEFT_THROTTLED"] = tag
    command = [a.weft, "bench", a.case, "--layout", layout, "--json", "--seconds", str(a.seconds)]
    if not tag:
        command = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] + command
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    over = threading.Event()
    thread = threading.Thread(target=throttle, args=(tag.encode(), a.runs, 1e-3 * a.period, over)) if tag and a.runs < 1 else None
    if thread:
        thread.start()
    out = process.communicate()[0]
    over.set()
    if thread:
        thread.join()
    if process.returncode:
        sys.exit(f"throttled.py: weft bench {a.case} --layout {layout} ended with status {process.returncode}")
    return next(line["median_s"] for line in map(json.loads, out.splitlines()) if "case" in line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case")
    parser.add_argument("layout", nargs="+")
    parser.add_argument("--weft", default="./weft", help="the program (default: ./weft)")
    parser.add_argument("--runs", type=float, default=0.5, help="part of the time in which the throttled rank runs")
    parser.add_argument("--period", type=float, default=10, help="in milliseconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each turn")
    a = parser.parse_args()
    parts, alone = {layout: [] for layout in a.layout}, []
    for _ in range(a.rounds):
        alone.append(time_of(a, "tp1"))
        for n, layout in enumerate(a.layout):
            parts[layout].append(alone[-1] / (1 + a.runs) / time_of(a, layout, f"{os.getpid()}-{n}"))
    print(f"{a.case}: one rank of one core alone {1e3 * sorted(alone)[len(alone) // 2]:.2f} ms; beside one that runs {100 * a.runs:.0f}% of the time")
    for layout in a.layout:
        print(f"  {layout}: of the sum of the speeds {show(parts[layout])}")


if __name__ == "__main__":
    main()
