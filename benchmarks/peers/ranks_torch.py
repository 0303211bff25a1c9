"""PyTorch's own tensor and sequence parallelism over gloo, a process per rank: the block of peer_torch.py, split as Megatron does.

qkv and fc1 by columns, proj and fc2 by rows, the sequence gathered before and summed and scattered after, norms on the rank's own
part of the sequence. Two forms of it:
  dtensor    torch.distributed.tensor.parallel: parallelize_module with ColwiseParallel, RowwiseParallel, SequenceParallel
  functions  the same exchanges as autograd functions around plain layers, [s, b, h] as in Megatron: no DTensor in between
Gradients of what every rank holds whole (norms, biases of proj and fc2) are summed over the ranks too, in one all-reduce.

Started by compare_ranks.py as rank 0, which starts the others, in the same process group. It answers lines of JSON:
{"case": text, "seconds": s}, or {"check": text}: the greatest differences from the plain block.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import threading
import time

from case import Case

DAY = datetime.timedelta(days=1)  # a rank waits for its next case as long as others have their turns


class Dtensor:
    """[b, s / ranks, h] in and out."""

    def __init__(self, layer, ranks):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

        whole, part = SequenceParallel(), Shard(1)
        plan = {"norm1": whole, "norm2": whole}
        for name in ("qkv", "fc1"):
            plan[name] = ColwiseParallel(input_layouts=part)
        for name in ("proj", "fc2"):
            plan[name] = RowwiseParallel(output_layouts=part)
        self.layer = self.run = parallelize_module(layer, init_device_mesh("cpu", (ranks,)), plan)
        self.parameters = list(layer.parameters())
        self.shared = [p for p in self.parameters if not p.placements[0].is_shard()]

    @staticmethod
    def part(x, ranks, rank):
        return x.chunk(ranks, 1)[rank].contiguous()

    @staticmethod
    def local(tensor):
        return tensor.to_local()

    def finish(self):
        """A gradient that is a partial sum is summed; what DTensor has summed itself is left alone."""
        sum_over_ranks([p.grad.to_local() for p in self.shared if p.grad.placements[0].is_partial()])


class Functions:
    """[s / ranks, b, h] in and out."""

    def __init__(self, layer, ranks):
        for module, dim in ((layer.qkv, 0), (layer.fc1, 0), (layer.proj, 1), (layer.fc2, 1)):
            module.weight = torch.nn.Parameter(module.weight.detach().chunk(ranks, dim)[dist.get_rank()].contiguous())
            if module.bias is not None and dim == 0:
                module.bias = torch.nn.Parameter(module.bias.detach().chunk(ranks)[dist.get_rank()].clone())
        self.layer, self.parameters = layer, list(layer.parameters())
        norms = [*layer.norm1.parameters(), *layer.norm2.parameters()]
        self.shared = norms + [bias for bias in (layer.proj.bias, layer.fc2.bias) if bias is not None]

    @staticmethod
    def part(x, ranks, rank):
        return x.transpose(0, 1).chunk(ranks)[rank].contiguous()

    @staticmethod
    def local(tensor):
        return tensor

    def run(self, x):
        layer = self.layer
        y = layer.attend(layer.qkv(Gather.apply(layer.norm1(x))).transpose(0, 1)).transpose(0, 1)
        x = x + scatter_rows(layer.proj, y)
        return x + scatter_rows(layer.fc2, layer.activate(layer.fc1(Gather.apply(layer.norm2(x)))))

    def finish(self):
        sum_over_ranks([p.grad for p in self.shared])


def scatter_rows(module, x):
    y = Scatter.apply(F.linear(x, module.weight))
    return y if module.bias is None else y + module.bias


def sum_over_ranks(tensors):
    if tensors:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(part.view_as(tensor))


def all_gather(x):
    x = x.contiguous()
    out = x.new_empty(x.shape[0] * dist.get_world_size(), *x.shape[1:])
    dist.all_gather_into_tensor(out, x)
    return out


def reduce_scatter(x):
    x = x.contiguous()
    out = x.new_empty(x.shape[0] // dist.get_world_size(), *x.shape[1:])
    dist.reduce_scatter_tensor(out, x)
    return out


def define_functions():
    """After torch is there."""
    global Gather, Scatter

    class Gather(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return all_gather(x)

        @staticmethod
        def backward(ctx, gradient):
            return reduce_scatter(gradient)

    class Scatter(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return reduce_scatter(x)

        @staticmethod
        def backward(ctx, gradient):
            return all_gather(gradient)


def reorder(module, sizes, ranks):
    """Rows of several matrices in one, each cut by rank: the rank's parts of all of them come to lie together."""
    for parameter in filter(lambda p: p is not None, (module.weight, module.bias)):
        parts = [matrix.chunk(ranks) for matrix in parameter.data.split(sizes)]
        parameter.data = torch.cat([part[rank] for rank in range(ranks) for part in parts])


def make(form, case, ranks, rank):
    """The case's split block, its input and the gradient of its output, this rank's parts; all ranks draw the same."""
    if any(count % ranks for count in (case.size["a"], case.size.get("kv", ranks), case.size["s"], case.size.get("f", ranks))):
        raise NotImplementedError(f"{case.text}: heads, features and tokens must divide by the ranks in this peer")
    layer, x, dy = peer_torch.block_parts(case)
    features = layer.fc2.in_features
    reorder(layer.qkv, [layer.heads * layer.d, layer.kv * layer.d, layer.kv * layer.d], ranks)
    if layer.gated:
        reorder(layer.fc1, [features, features], ranks)
    layer.heads, layer.kv = layer.heads // ranks, layer.kv // ranks
    split = {"dtensor": Dtensor, "functions": Functions}[form](layer, ranks)
    return split, split.part(x.detach(), ranks, rank).requires_grad_(case.has("train")), split.part(dy, ranks, rank)


def runner(split, x, dy, train):
    def run():
        if not train:
            with torch.no_grad():
                return split.run(x)
        for tensor in (*split.parameters, x):
            tensor.grad = None
        y = split.run(x)
        y.backward(dy)
        split.finish()
        return y

    return run


def timed(run):
    """As weft's bench counts: the ranks start together, the slowest one's time is the sample."""
    dist.barrier()
    begin = time.perf_counter()
    run()
    seconds = torch.tensor(time.perf_counter() - begin, dtype=torch.float64)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return seconds.item()


def sample(run, seconds):
    """As many runs as the time allows, three at least; all ranks know the same times."""
    times = []
    while len(times) < 3 or sum(times) < seconds:
        times.append(timed(run))
    return {"median_s": statistics.median(times), "minimum_s": min(times), "samples": len(times)}


def check(form, case, ranks, rank):
    """Largest difference from the plain block of the output, of the input's and of the shared parameters' gradients, of the
    largest magnitude."""
    layer, x, dy = peer_torch.block_parts(case)
    y = layer(x)
    y.backward(dy)
    split, part, part_dy = make(form, case, ranks, rank)
    got = runner(split, part, part_dy, True)().detach()
    wanted = {"output": split.part(y.detach(), ranks, rank), "input gradient": split.part(x.grad, ranks, rank)}
    found = {"output": got, "input gradient": part.grad}
    for name, parameter in split.layer.named_parameters():
        if any(parameter is shared for shared in split.shared):
            wanted[name], found[name] = layer.get_parameter(name).grad, split.local(parameter.grad)
    worst = torch.tensor([((found[k] - wanted[k]).abs().max() / wanted[k].abs().max()).item() for k in wanted])
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return {"differences": dict(zip(wanted, worst.tolist()))}


def end_with(other):
    os._exit(other.wait())


def meet(form, ranks, rank, port, bound):
    """Rank 0 starts the others, and ends when one of them does."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.TCPStore("127.0.0.1", port, ranks, rank == 0, DAY, wait_for_workers=False)
    for other in range(1, ranks if rank == 0 else 1):
        command = [sys.executable, __file__, form, str(ranks), str(other), str(store.port), *bound]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        threading.Thread(target=end_with, args=(process,), daemon=True).start()
    if bound:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=DAY)


def tell(rank, said):
    if rank == 0:
        print(json.dumps(said), flush=True)


def main():
    global torch, dist, F, peer_torch
    form, (ranks, rank, port) = sys.argv[1], map(int, sys.argv[2:5])
    try:
        import peer_torch
        import torch
        import torch.distributed as dist
        import torch.nn.functional as F
    except (ImportError, OSError) as error:
        tell(rank, {"absent": str(error)})
        return
    define_functions()
    torch.set_num_threads(1)
    meet(form, ranks, rank, port, sys.argv[5:])
    tell(rank, {"version": f"{peer_torch.version()}, {ranks} ranks over gloo, a thread each"})
    ready = {}
    while True:
        asked = [json.loads(sys.stdin.readline() or "null") if rank == 0 else None]
        dist.broadcast_object_list(asked)
        if not asked[0]:
            break
        try:
            if "check" in asked[0]:
                tell(rank, check(form, Case(asked[0]["check"]), ranks, rank))
                continue
            if asked[0]["case"] not in ready:
                ready.clear()
                case = Case(asked[0]["case"])
                run = runner(*make(form, case, ranks, rank), case.has("train"))
                for _ in range(3):
                    run()
                ready[asked[0]["case"]] = run
            tell(rank, sample(ready[asked[0]["case"]], asked[0]["seconds"]))
        except NotImplementedError as error:
            tell(rank, {"skipped": str(error)})


main()
