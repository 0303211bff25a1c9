#!/usr/bin/env python3
"""A block split over ranks of one core each, weft's layout tpN.sp, beside one rank of all N cores and beside PyTorch's own split.

    benchmarks/peers/compare_ranks.py --weft ./weft @benchmarks/cases/block

Cases, rounds, ratios and intervals as in compare.py; every ratio is another's time / weft's on N ranks, within a round (above 1:
weft on N ranks is faster). The others, in turns:
  tp1        weft, one rank of N cores
  dtensor    torch.distributed.tensor.parallel over gloo, N processes of a thread each (see ranks_torch.py)
  functions  the same exchanges without DTensor
  torch      PyTorch, one process of N threads

N is the number of cores that this process may use (`taskset -c 0,1` gives two), or --ranks, which must be as many. weft cuts the
CPU device itself, each rank a core's share; that each says one compute unit is required. Threads are not bound to cores; --bind
binds weft's ranks and PyTorch's. --check compares the split blocks of PyTorch with its plain one, and times nothing.
"""

import argparse
import os
import statistics
import sys
import time

from turns import Peer, cases_of, end_on_sigterm, interval, present_of, weft_turn, write_json

TOLERANCE = 1e-5  # f32, sums of at most a few thousand terms in another order


def peer_of(name, ranks, bind):
    if name == "torch":
        return Peer(name, "child.py", [name, str(ranks)], ranks)
    return Peer(name, "ranks_torch.py", [name, str(ranks), "0", "0", *(["bind"] if bind else [])], 1)


def split_command(program, ranks, bind):
    """weft starts mpirun itself and binds nothing; with --bind the same line, and each rank bound to a core."""
    if not bind:
        return [program]
    return ["mpirun", "--quiet", "--allow-run-as-root", "--oversubscribe", "--bind-to", "core", "-n", str(ranks), program]


def require_units(machines, units, layout):
    found = [machine["compute_units"] for machine in machines]
    if found != units:
        raise SystemExit(f"compare_ranks.py: weft's {layout} has ranks of {found} compute units, not {units}")


def round_of(case, arguments, peers):
    """The seconds of each, by name, and what a peer said instead."""
    ranks, layout, seconds, why = arguments.ranks, f"tp{arguments.ranks}.sp", {}, {}
    row, machines = weft_turn([arguments.weft], case, arguments.seconds, "--layout", "tp1")
    require_units(machines, [ranks], "tp1")
    seconds["tp1"] = row["median_s"]
    row, machines = weft_turn(split_command(arguments.weft, ranks, arguments.bind), case, arguments.seconds, "--layout", layout)
    require_units(machines, [1] * ranks, layout)
    seconds[layout] = row["median_s"]
    for peer in peers:
        said = peer.turn(case, arguments.seconds)
        if "skipped" in said:
            why[peer.name] = said["skipped"]
        else:
            seconds[peer.name] = said["median_s"]
    return seconds, why


def compare(case, arguments, peers):
    layout, rounds = f"tp{arguments.ranks}.sp", []
    for _ in range(arguments.rounds):
        seconds, why = round_of(case, arguments, peers)
        rounds.append(seconds)
    middle = lambda name: statistics.median(r[name] for r in rounds)
    result = {"case": case, "layout": layout, "seconds": middle(layout), "others": {}, "skipped": why, "rounds": rounds}
    for name in rounds[0]:
        if name != layout:
            ratios = [r[name] / r[layout] for r in rounds]
            low, high = interval(ratios)
            result["others"][name] = {"seconds": middle(name), "ratio": statistics.median(ratios), "low": low, "high": high}
    return result


def show(result):
    print(f"{result['case']}\n  weft {result['layout']}: {1e3 * result['seconds']:.3f} ms")
    for name, other in result["others"].items():
        ratio = f"{other['ratio']:.3f} ({other['low']:.3f} to {other['high']:.3f})"
        print(f"  {name}: {1e3 * other['seconds']:.3f} ms, its time / weft's {ratio}")
    for name, why in result["skipped"].items():
        print(f"  {name}: {why}")
    sys.stdout.flush()


def check(case, peers):
    """Whether every split block of PyTorch is the plain one, to rounding."""
    good = True
    for peer in peers:
        said = peer.ask({"check": case})
        if "skipped" in said:
            print(f"{peer.name}: {said['skipped']}")
            continue
        worst = max(said["differences"].items(), key=lambda item: item[1])
        good = good and worst[1] <= TOLERANCE
        print(f"{peer.name}: {case}: {len(said['differences'])} tensors, largest difference {worst[1]:.1e} ({worst[0]})")
    return good


def main():
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weft", default="./weft", help="the program (default: ./weft)")
    parser.add_argument("--peers", default="dtensor,functions,torch", help="which, joined by commas")
    parser.add_argument("--ranks", type=int, default=cores, help=f"as many as cores (here {cores})")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1, help="of each turn")
    parser.add_argument("--bind", action="store_true", help="each rank to a core")
    parser.add_argument("--check", action="store_true", help="PyTorch's split block against its plain one")
    parser.add_argument("--json", help="also write a line of JSON per case to this file")
    parser.add_argument("case", nargs="+")
    arguments = parser.parse_args()
    if arguments.ranks < 2 or (arguments.ranks != cores and not arguments.check):
        raise SystemExit(f"compare_ranks.py: {arguments.ranks} ranks on {cores} cores: as many as cores are needed, two at least")
    names = [name for name in arguments.peers.split(",") if not (arguments.check and name == "torch")]
    end_on_sigterm()
    peers = [peer_of(name, arguments.ranks, arguments.bind) for name in names]
    try:
        present = present_of(peers)
        if arguments.check:
            sys.exit(0 if all([check(case, present) for case in cases_of(arguments.case)]) else 1)
        bound = "ranks bound" if arguments.bind else "nothing bound"
        print(f"{arguments.ranks} cores, {bound}, {arguments.rounds} rounds, {time.strftime('%Y-%m-%d')}")
        results = []
        for case in cases_of(arguments.case):
            results.append(compare(case, arguments, present))
            show(results[-1])
        write_json(arguments.json, results)
    finally:
        for peer in peers:
            peer.end()


main()
