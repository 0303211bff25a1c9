#!/usr/bin/env python3
"""check_block.py: weft from Python, by ctypes: the forward and backward of a stack of blocks against numpy.

    python3 check_block.py                      one rank
    mpirun -np 2 python3 check_block.py         the ranks of mpi4py; the layout is tpN.sp
    python3 check_block.py --structures         sizes and offsets of the structures below, as weft's host/api/weft.abi has them

Needs numpy. With pyopencl the context, queue and buffers are Python's own; with mpi4py the communicator is.
Without one of them it says so and goes on with host memory, or with one rank. WEFT_LIBRARY names libweft.so
where the loader does not find it. Exit status 0: right; 1: wrong; 77: numpy is not installed.
"""
import ctypes
import ctypes.util
import os
import sys
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_uint32, c_uint64, c_void_p


def say(text):
    print(f"check_block: {text}", file=sys.stderr)


try:
    import numpy as np
except ImportError:
    say("SKIP: numpy is not installed")
    sys.exit(77)
try:
    import pyopencl as cl
except ImportError:
    say("pyopencl is not installed: buffers are host memory")
    cl = None
try:
    from mpi4py import MPI
except ImportError:
    say("mpi4py is not installed: one rank")
    MPI = None

# ---- weft.h ----------------------------------------------------------------------------------------------

weft = ctypes.CDLL(os.environ.get("WEFT_LIBRARY") or ctypes.util.find_library("weft") or "libweft.so.0")  # the SONAME: its structures are frozen
weft.weft_last_error.restype = c_char_p


class ContextOptions(Structure):
    _fields_ = [("device", c_char_p), ("transport", c_char_p), ("cache_dir", c_char_p), ("timeout_s", c_double),
                ("profile", c_bool), ("stuck", c_void_p), ("stuck_user", c_void_p),
                ("cl_context", c_void_p), ("cl_device", c_void_p), ("cl_queue", c_void_p), ("cache", c_char_p),
                ("link", c_char_p), ("kernel_dir", c_char_p), ("log", c_void_p), ("log_user", c_void_p), ("log_categories", c_char_p)]


class PlanOptions(Structure):
    _fields_ = [("model", c_void_p), ("layout", c_void_p), ("batch", c_int64), ("sequence", c_int64), ("mode", c_int),
                ("rank", c_int32), ("memory_bytes", c_int64), ("gemm", c_char_p), ("phases", c_uint32), ("order", c_int),
                ("documents", c_bool)]


class Buffer(Structure):
    _fields_ = [("cl_mem", c_void_p), ("offset_bytes", c_int64), ("host", c_void_p)]


class Args(Structure):
    _fields_ = [("tokens", c_void_p), ("targets", c_void_p), ("documents", c_void_p), ("seed", c_uint64), ("step", c_int64),
                ("learning_rate", c_float), ("beta1", c_float), ("beta2", c_float), ("epsilon", c_float),
                ("weight_decay", c_float), ("max_norm", c_float),
                ("x", Buffer), ("y", Buffer), ("dy", Buffer), ("dx", Buffer), ("microbatch", c_int64), ("accumulate", c_bool)]


class Rows(Structure):
    _fields_ = [(name, c_int64) for name in ("samples", "positions", "first_position", "hidden", "gap_at", "gap")]


class TensorInfo(Structure):
    _fields_ = [("name", c_char_p)] + [(name, c_int64) for name in
                                       ("instances", "rows", "columns", "global_rows", "global_columns")]


STRUCTURES = {"weft_context_options": ContextOptions, "weft_tensor_info": TensorInfo, "weft_buffer": Buffer,
              "weft_plan_options": PlanOptions, "weft_rows": Rows, "weft_args": Args}  # in weft.h's order


def print_structures():
    for name, structure in STRUCTURES.items():
        print(f"struct {name}: {ctypes.sizeof(structure)} bytes")
        for field, _ in structure._fields_:
            where = getattr(structure, field)
            print(f"    {name}.{field}: at {where.offset}, {where.size} bytes")
    return 0


BLOCKS, FORWARD, BACKWARD, FINISH = 16, 1, 2, 4
vp = c_void_p
SIGNATURES = {
    "weft_bootstrap_mpi": [vp, vp], "weft_context_create": [vp, vp, vp], "weft_model_create": [c_char_p, vp],
    "weft_layout_parse": [c_char_p, vp], "weft_params_create": [vp, vp, vp, vp], "weft_params_init": [vp, c_uint64],
    "weft_params_info": [vp, c_int32, vp], "weft_params_gather": [vp, c_int32, c_char_p, c_int64, vp],
    "weft_plan_create": [vp, vp, vp], "weft_plan_load": [vp, vp], "weft_stash_create": [vp, vp],
    "weft_plan_enqueue": [vp, c_uint32, vp, vp, vp, vp, vp],
}
for name, types in SIGNATURES.items():
    getattr(weft, name).argtypes = types
for name in ("weft_context_options_init", "weft_plan_options_init", "weft_args_init", "weft_plan_destroy", "weft_stash_destroy",
             "weft_params_destroy", "weft_context_destroy", "weft_bootstrap_destroy", "weft_layout_destroy", "weft_model_destroy"):
    getattr(weft, name).argtypes = [vp]
    getattr(weft, name).restype = None
weft.weft_plan_rows.argtypes = [vp, vp]
weft.weft_plan_rows.restype = None
weft.weft_params_count.argtypes = [vp]


def call(name, *arguments):
    if getattr(weft, name)(*arguments) != 0:
        say(f"{name}: {weft.weft_last_error().decode()}")
        if MPI and MPI.COMM_WORLD.size > 1:
            MPI.COMM_WORLD.Abort(1)
        sys.exit(1)


def make(name, *arguments):
    out = c_void_p()
    call(name, *arguments, byref(out))
    return out


# ---- the same block in numpy, f64, whole ---------------------------------------------------------------------

HEADS, EPSILON = 4, 1e-5  # of the model "tiny"


def norm(x, gamma, beta):
    mean = x.mean(-1, keepdims=True)
    r = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + EPSILON)
    return (x - mean) * r * gamma + beta


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def block(x, w):
    """x: [positions, samples, hidden]."""
    s, b, h = x.shape
    d = h // HEADS
    qkv = norm(x, w["norm1.weight"], w["norm1.bias"]) @ w["attn.qkv.weight"].T + w["attn.qkv.bias"]
    q, k, v = (part.reshape(s, b, HEADS, d).transpose(1, 2, 0, 3) for part in np.split(qkv, 3, -1))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(d)
    scores[..., np.triu_indices(s, 1)[0], np.triu_indices(s, 1)[1]] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    o = (p @ v).transpose(2, 0, 1, 3).reshape(s, b, h)
    x = x + o @ w["attn.proj.weight"].T + w["attn.proj.bias"]
    a = gelu(norm(x, w["norm2.weight"], w["norm2.bias"]) @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"])
    return x + a @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]


def stack(x, layers):
    for w in layers:
        x = block(x, w)
    return x


# ---- weft's, on this rank's rows -------------------------------------------------------------------------------

BATCH, SEQUENCE, HIDDEN = 2, 19, 128


def main():
    ranks = MPI.COMM_WORLD.size if MPI else 1
    bootstrap = None
    options = ContextOptions()
    weft.weft_context_options_init(byref(options))
    if MPI and ranks > 1:
        communicator = c_void_p.from_address(MPI._addressof(MPI.COMM_WORLD)).value  # Open MPI's MPI_Comm is a pointer
        bootstrap = make("weft_bootstrap_mpi", communicator)
    if cl:
        opencl = cl.Context([cl.get_platforms()[0].get_devices()[0]])
        queue = cl.CommandQueue(opencl)
        options.cl_context, options.cl_device, options.cl_queue = opencl.int_ptr, opencl.devices[0].int_ptr, queue.int_ptr
    context = make("weft_context_create", byref(options), bootstrap)
    model = make("weft_model_create", b"tiny")
    layout = make("weft_layout_parse", b"" if ranks == 1 else f"tp{ranks}.sp".encode())
    params = make("weft_params_create", context, model, layout)
    call("weft_params_init", params, 5)
    plan_options = PlanOptions()
    weft.weft_plan_options_init(byref(plan_options))
    plan_options.model, plan_options.layout = model, layout
    plan_options.batch, plan_options.sequence, plan_options.mode = BATCH, SEQUENCE, BLOCKS
    plan = make("weft_plan_create", context, byref(plan_options))
    call("weft_plan_load", plan, params)
    stash = make("weft_stash_create", plan)
    rows = Rows()
    weft.weft_plan_rows(plan, byref(rows))

    random = np.random.default_rng(1)
    x = random.standard_normal((SEQUENCE, BATCH, HIDDEN))
    dy = random.standard_normal((SEQUENCE, BATCH, HIDDEN))
    mine = np.arange(rows.positions) + rows.first_position
    mine[rows.gap_at:] += rows.gap

    def own(whole):
        return np.ascontiguousarray(whole[mine], dtype=np.float32)

    args = Args()
    weft.weft_args_init(byref(args))
    host = {"x": own(x), "y": np.zeros_like(own(x)), "dy": own(dy), "dx": np.zeros_like(own(x))}
    device = {}
    for name, array in host.items():
        if cl:
            device[name] = cl.Buffer(opencl, cl.mem_flags.READ_WRITE, max(array.nbytes, 4))
            cl.enqueue_copy(queue, device[name], array, is_blocking=False)
            setattr(args, name, Buffer(device[name].int_ptr, 0, None))
        else:
            setattr(args, name, Buffer(None, 0, array.ctypes.data))
    call("weft_plan_enqueue", plan, FORWARD, None, stash, byref(args), None, None)
    call("weft_plan_enqueue", plan, BACKWARD | FINISH, None, stash, byref(args), None, None)
    for name in ("y", "dx"):
        if cl:
            cl.enqueue_copy(queue, host[name], device[name])

    tensors = [{} for _ in range(4)]
    gradients = {}
    for index in range(weft.weft_params_count(params)):
        info = TensorInfo()
        call("weft_params_info", params, index, byref(info))
        name = info.name.decode()
        for layer in range(info.instances if name.startswith("layer.") else 0):
            for what, where in ((b"", tensors[layer]), (b"grad", gradients)):
                out = np.zeros((info.global_rows, info.global_columns), np.float32)
                call("weft_params_gather", params, index, what, layer, out.ctypes.data)
                key = name[len("layer."):]
                where[key if what == b"" else (layer, key)] = (out[:, 0] if info.global_columns == 1 else out).astype(np.float64)

    worst = 0.0

    def compare(what, got, want):
        nonlocal worst
        off = float(np.abs(got - want).max() / np.abs(want).max()) if want.size else 0.0
        worst = max(worst, off)
        if not off <= 1e-5:
            say(f"{what}: off by {off:.2g} of the largest")

    compare("y", host["y"], stack(x, tensors)[mine])
    # Backward: the loss is sum(dy * y), whose derivative along a direction is a difference in f64.
    step = 1e-6
    along = random.standard_normal(x.shape)
    want = np.sum(dy * (stack(x + step * along, tensors) - stack(x - step * along, tensors))) / (2 * step)
    part = np.array(np.sum(host["dx"].astype(np.float64) * along[mine]))
    if ranks > 1:
        MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, part)
    compare("dx along a random direction", part, np.array(want))
    for layer, name in ((0, "attn.qkv.weight"), (1, "mlp.fc1.weight"), (3, "norm2.weight"), (2, "attn.proj.bias")):
        changed = [[dict(w) for w in tensors] for _ in range(2)]
        along = np.random.default_rng(2).standard_normal(tensors[layer][name].shape)
        changed[0][layer][name] = tensors[layer][name] + step * along
        changed[1][layer][name] = tensors[layer][name] - step * along
        want = np.sum(dy * (stack(x, changed[0]) - stack(x, changed[1]))) / (2 * step)
        compare(f"gradient of layer {layer}'s {name}", np.array(np.sum(gradients[layer, name] * along)), np.array(want))

    for name, what in (("stash", stash), ("plan", plan), ("params", params), ("context", context), ("layout", layout), ("model", model)):
        getattr(weft, f"weft_{name}_destroy")(what)
    if bootstrap:
        weft.weft_bootstrap_destroy(bootstrap)
    if not MPI or MPI.COMM_WORLD.rank == 0:
        print(f"{ranks} rank{'s' if ranks > 1 else ''}, {'OpenCL' if cl else 'host'} buffers: within {worst:.1e} of numpy")
    return 0 if worst <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(print_structures() if sys.argv[1:] == ["--structures"] else main())
