"""trace_agrees.py EXPLAINED TRACE: does a run of rank 0 overlap as `weft plan --explain` says?

Per exchange: the first kernel that is not among those that hide it starts after it has ended. Some are seen to
hide, as kernels that last long enough do. Prints how much was hidden.
"""

import json
import re
import sys


def segments_of(text):
    """Name -> [(lane, site, hidden by how many of the next kernels, by a later segment?)]"""
    out, steps = {}, None
    for line in text.splitlines():
        header = re.match(r"(\S+): \d+ steps, called", line)
        if header:
            steps = out.setdefault(header[1], [])
        step = re.match(r"  (\S+) +(\S+) (.*)", line)
        if steps is None or not step:
            continue
        behind = re.search(r"; hides behind ([^|]*) \|", step[3])
        steps.append((step[1], step[2], behind[1].split(", ") if behind else []))
    return out


def main():
    with open(sys.argv[1]) as file:
        segments = segments_of(file.read())
    with open(sys.argv[2]) as file:
        all_events = [e for e in json.load(file)["traceEvents"] if e["pid"] == 0]
    # A plan without ranks knows no windows, so no words that what was read in one is read.
    events = [e for e in all_events if e["ph"] == "X" and not e["args"].get("returns")]
    tid_of = {e["args"]["name"]: e["tid"] for e in all_events if e["name"] == "thread_name"}
    slots = [e["args"] for e in events if e["tid"] == tid_of.get("dp")]  # no window holds what these are sent from
    assert all("window" not in (a.get("sent_by"), a.get("received_by")) for a in slots), "the trace names a transport that was not used"
    calls = {}
    for e in events:
        calls.setdefault((e["args"]["segment"], e["args"]["layer"], e["args"]["microbatch"]), []).append(e)
    hidden_said = hidden_seen = exposed = 0
    for (name, layer, microbatch), found in calls.items():
        steps = segments[name]
        runs, rest = divmod(len(found), len(steps))
        assert rest == 0, f"{name} of layer {layer}: {len(found)} slices of {len(steps)} steps"
        lanes = {} # the file has each lane in its order, one run after another
        for e in found:
            lanes.setdefault(e["tid"], []).append(e)
        for r in range(runs):
            at = {tid: r * len(es) // runs for tid, es in lanes.items()}
            row = []
            for lane, site, behind in steps:
                tid = tid_of[lane]
                e = lanes[tid][at[tid]]
                at[tid] += 1
                assert e["name"] == site, f"{name}: the text has {site}, the trace {e['name']}"
                row.append((e, lane, behind))
            for i, (e, lane, behind) in enumerate(row):
                if e["cat"] != "exchange":
                    continue
                end = e["ts"] + e["dur"]
                later = [x for x, other, _ in row[i + 1:] if x["cat"] == "kernel"]
                here = [b for b in behind if b not in segments]
                assert [x["name"] for x in later[: len(here)]] == here, f"{name}, {e['name']}: not the kernels that follow"
                if len(later) > len(here):
                    early = later[len(here)]
                    assert early["ts"] >= end - 50, f"{name}: {early['name']} starts {end - early['ts']:.0f} us before {e['name']} has ended"
                during = any(x["ts"] < end and x["ts"] + x["dur"] > e["ts"] for x in later[: len(here)])
                hidden_said += bool(here)
                hidden_seen += bool(here) and during
                exposed += not behind
    total = sum(e["dur"] for e in events if e["cat"] == "exchange")
    hidden = sum(e["args"]["hidden_us"] for e in events if e["cat"] == "exchange")
    print(f"{hidden_said} exchanges hide, {hidden_seen} seen to; {exposed} are exposed; of {total:.0f} us {hidden:.0f} were hidden")
    assert exposed and hidden_seen and hidden > 0, "what should hide is not seen to"


main()
