"""A peer in a process of its own: reads lines of JSON, {"case": text, "seconds": s}, answers each with a line of its own.

Started by compare.py, which stops the process (SIGSTOP) while others run, so that no pool of threads that spins
between two calls can take their time.
"""

import json
import statistics
import sys
import time

from case import Case


def load(name):
    if name in ("torch", "compile"):
        import peer_torch

        return peer_torch
    import peer_blas

    return peer_blas.Library({"mkl": peer_blas.mkl, "openblas": peer_blas.openblas}[name])


def sample(run, seconds):
    """The median and the least of as many runs as the time allows, three at least."""
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return {"median_s": statistics.median(times), "minimum_s": min(times), "samples": len(times)}


def main():
    name, threads = sys.argv[1], int(sys.argv[2])
    try:
        peer = load(name)
        peer.threads(threads)
    except (ImportError, OSError, AttributeError) as error:
        print(json.dumps({"absent": str(error)}), flush=True)
        return
    print(json.dumps({"version": peer.version()}), flush=True)
    ready = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["case"] not in ready:
                ready.clear()  # memory of one case at a time
                run = peer.make(Case(asked["case"]), name == "compile")
                for _ in range(3):
                    run()
                ready[asked["case"]] = run
            print(json.dumps(sample(ready[asked["case"]], asked["seconds"])), flush=True)
        except NotImplementedError as error:
            print(json.dumps({"skipped": str(error)}), flush=True)


main()
