"""What the comparisons share: peers that are stopped while others run, weft's own turn, a median's interval, lists of cases."""

import json
import math
import os
import signal
import subprocess
import sys


class Peer:
    """A script of this folder that answers lines of JSON; it and all processes that it starts (a group) are stopped between
    its turns. Its first line says what it is, or {"absent": why}."""

    def __init__(self, name, script, words, threads):
        self.name = name
        counts = {library + "_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
        command = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), script), *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=os.environ | counts, preexec_fn=os.setpgrp)
        self.said = self.answer()
        self.absent, self.version = self.said.get("absent"), self.said.get("version")
        self.stop()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{program()}: peer {self.name} ended")
        return json.loads(line)

    def signal(self, number):
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def stop(self):
        self.signal(signal.SIGSTOP)

    def ask(self, question):
        self.signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        said = self.answer()
        self.stop()
        return said

    def turn(self, case, seconds):
        return self.ask({"case": case, "seconds": seconds})

    def end(self):
        self.signal(signal.SIGKILL)
        self.process.wait()


def end_on_sigterm():
    """By an exception, so that `finally` ends the peers."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def program():
    return os.path.basename(sys.argv[0])


def present_of(peers):
    """Says what each peer is; those that are installed. The end with status 77 where none is."""
    for peer in peers:
        print(f"{peer.name}: {peer.version or 'not here: ' + peer.absent}")
    present = [peer for peer in peers if not peer.absent]
    if not present:
        print(f"{program()}: SKIP: no peer is installed")
        sys.exit(77)
    return present


def weft_turn(command, case, seconds, *words):
    """Runs `weft bench`; its line of the case, and those of the ranks' machines."""
    done = subprocess.run([*command, "bench", case, "--json", "--seconds", str(seconds), *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{program()}: weft bench {case} ended with status {done.returncode}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return next(line for line in lines if "case" in line), [line for line in lines if "rank" in line]


def interval(values):
    """Of the median, by order: the widest pair of ranks beyond which 2.5% lie on each side, and its confidence."""
    values, n = sorted(values), len(values)
    tail, low = 0.0, 0
    while low < n // 2 and tail + math.comb(n, low) / 2**n <= 0.025:
        tail += math.comb(n, low) / 2**n
        low += 1
    low = max(low - 1, 0)
    return values[low], values[n - 1 - low]


def cases_of(words):
    for word in words:
        if word.startswith("@"):
            with open(word[1:], encoding="ascii") as file:
                yield from (line.strip() for line in file if line.strip() and not line.startswith("#"))
        else:
            yield word


def write_json(path, rows):
    if path:
        with open(path, "w", encoding="ascii") as file:
            for row in rows:
                file.write(json.dumps(row) + "\n")
