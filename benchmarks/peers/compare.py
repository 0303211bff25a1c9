#!/usr/bin/env python3
"""weft beside what its user would pick instead, on the same cores, in one run.

    benchmarks/peers/compare.py --weft ./weft gemm:f32:m1024n1024k1024:nn @benchmarks/cases/block

A case is a text of `weft bench`; @FILE stands for the file's lines. Each case has rounds; in a round weft and every peer
take a turn, the others being stopped, and the ratio is taken within the round: noise that lasts longer than
a round cancels. Printed: the medians, and of the ratio peer's time / weft's (above 1: weft is faster) the median with
an interval of its confidence from the order of the rounds (a sign test's; with 9 rounds of 96%).

Peers, optional each: torch (eager), compile (torch.compile), mkl (PyPI's mkl), openblas. What is not installed is said and left out;
exit status 77 if none is. What a peer cannot do is said, not timed.
"""

import argparse
import os
import statistics
import sys
import time

from turns import Peer, cases_of, end_on_sigterm, interval, present_of, weft_turn, write_json


def compare(case, program, peers, rounds, seconds):
    rows, times, ratios = [], {p.name: [] for p in peers}, {p.name: [] for p in peers}
    skipped = {}
    for _ in range(rounds):
        row, machines = weft_turn([program], case, seconds)
        rows.append(row | {"peak_gflops": machines[0]["peak_gflops"]})
        for peer in peers:
            if peer.name in skipped:
                continue
            said = peer.turn(case, seconds)
            if "skipped" in said:
                skipped[peer.name] = said["skipped"]
                continue
            times[peer.name].append(said["median_s"])
            ratios[peer.name].append(said["median_s"] / row["median_s"])
    result = {"case": case, "candidate": rows[0]["candidate"], "weft_s": statistics.median(r["median_s"] for r in rows),
              "gflops": statistics.median(r["gflops"] for r in rows), "of_peak_flops": statistics.median(r["of_peak_flops"] for r in rows), "peers": {}}
    for peer in peers:
        if peer.name in skipped:
            result["peers"][peer.name] = {"skipped": skipped[peer.name]}
            continue
        low, high = interval(ratios[peer.name])
        result["peers"][peer.name] = {"seconds": statistics.median(times[peer.name]), "ratio": statistics.median(ratios[peer.name]), "low": low, "high": high}
    return result


def show(result):
    print(f"{result['case']}\n  weft [{result['candidate']}]: {1e3 * result['weft_s']:.3f} ms, {result['gflops']:.1f} GFLOP/s, {100 * result['of_peak_flops']:.0f}% of the peak")
    for name, peer in result["peers"].items():
        if "skipped" in peer:
            print(f"  {name}: {peer['skipped']}")
        else:
            print(f"  {name}: {1e3 * peer['seconds']:.3f} ms, its time / weft's {peer['ratio']:.3f} ({peer['low']:.3f} to {peer['high']:.3f})")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weft", default="./weft", help="the program (default: ./weft)")
    parser.add_argument("--peers", default="torch,compile,mkl,openblas", help="which, joined by commas")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--json", help="also write a line of JSON per case to this file")
    parser.add_argument("case", nargs="+")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    end_on_sigterm()
    peers = [Peer(name, "child.py", [name, str(threads)], threads) for name in arguments.peers.split(",")]
    present = present_of(peers)
    print(f"{threads} threads each, {arguments.rounds} rounds, {time.strftime('%Y-%m-%d')}")
    try:
        results = []
        for case in cases_of(arguments.case):
            results.append(compare(case, arguments.weft, present, arguments.rounds, arguments.seconds))
            show(results[-1])
        for peer in present:
            ratios = [r["peers"][peer.name]["ratio"] for r in results if "ratio" in r["peers"][peer.name]]
            if ratios:
                print(f"{peer.name}: geometric mean of {len(ratios)} cases {statistics.geometric_mean(ratios):.3f}, least {min(ratios):.3f}")
        write_json(arguments.json, results)
    finally:
        for peer in peers:
            peer.end()


main()
