#!/usr/bin/env python3
"""Two devices of unlike speed in one group: what shares in proportion gain over equal ones.

    benchmarks/throttled.py --weft ./weft block:f32:b1s2048h1024a16:gelu.layernorm.causal:train \\
        tp2.sp tp2.sp.tp-shares2-1 cp2ring cp2ring.cp-shares

The last of two ranks is throttled: stopped (SIGSTOP) for a part of every few milliseconds. The sum of the two speeds is what two
processes of one rank get done at the same time, each on a core of its own, one of them throttled: they wait for nobody, and what
else the machine does hits them, too. Per layout, in turns with that, the medians of the rounds with quartiles: its speed, in parts
of the sum. Shares without numbers are what weft measures at the start, which it tells. Linux only: ranks are found by what
Open MPI tells them (/proc).
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


def throttle(find, runs, period_s, over):
    """Until `over` is set. find: the process, or None as long as there is none."""
    pid = None
    while not over.is_set():
        pid = pid or find()
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


def bench(a, layout, core=None, **variables):
    command = [a.weft, "bench", a.case, "--layout", layout, "--json", "--seconds", str(a.seconds)]
    if core is not None:
        command = ["taskset", "-c", str(core)] + command
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ, WEFT_TIMEOUT_S="60", **variables))


def times_of(a, processes, find):
    over = threading.Event()
    thread = threading.Thread(target=throttle, args=(find, a.runs, 1e-3 * a.period, over))
    thread.start()
    outputs = [process.communicate()[0] for process in processes]
    over.set()
    thread.join()
    for process in processes:
        if process.returncode:
            sys.exit(f"throttled.py: {' '.join(process.args)} ended with status {process.returncode}")
    return [next(line["median_s"] for line in map(json.loads, out.splitlines()) if "case" in line) for out in outputs]


def sum_of_speeds(a):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("throttled.py: two cores are needed")
    processes = [bench(a, "tp1", core) for core in cores[:2]]
    return sum(1 / seconds for seconds in times_of(a, processes, lambda: processes[1].pid))


def speed_of(a, layout, tag):
    return 1 / times_of(a, [bench(a, layout, WEFT_THROTTLED=tag)], lambda: last_rank_of(tag.encode()))[0]


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
    parts, sums = {layout: [] for layout in a.layout}, []
    for _ in range(a.rounds):
        sums.append(sum_of_speeds(a))
        for n, layout in enumerate(a.layout):
            parts[layout].append(speed_of(a, layout, f"{os.getpid()}-{n}") / sums[-1])
    print(f"{a.case}: two processes, one of which runs {100 * a.runs:.0f}% of the time, do {sorted(sums)[len(sums) // 2]:.3g} a second in all")
    for layout in a.layout:
        print(f"  {layout}: of the sum of the speeds {show(parts[layout])}")


if __name__ == "__main__":
    main()
