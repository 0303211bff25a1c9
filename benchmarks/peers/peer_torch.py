"""PyTorch's side of a case: a function that does the work once.

make(case, compiled): the same product, attention or block, forward or forward and backward, on PyTorch's own
best order of memory. Random inputs; nothing is read back inside the timed function.
"""

import math

import torch
import torch.nn.functional as F


def version():
    return f"PyTorch {torch.__version__}"


def threads(count):
    torch.set_num_threads(count)


def make(case, compiled):
    return {"gemm": gemm, "attention": attention, "attention_backward": attention_backward, "block": block}[case.operation](case, compiled)


def gemm(case, compiled):
    case.only("nn", "nt", "tn", "tt")
    if compiled:
        raise NotImplementedError("a product alone has nothing to compile")
    m, n, k = (case.size[x] for x in "mnk")
    kind = case.flags[0]
    a = torch.randn(m, k) if kind[0] == "n" else torch.randn(k, m).t()
    b = torch.randn(k, n) if kind[1] == "n" else torch.randn(n, k).t()
    c = torch.empty(m, n)
    return lambda: torch.mm(a, b, out=c)


def heads(case):
    s = case.size
    kv = s.get("kv", s["h"])
    if s["s"] != s.get("t", s["s"]) or s.get("hn", s["h"]) != s["h"] or s.get("w"):
        raise NotImplementedError(f"{case.text}: only whole, square attention without a window in this peer")
    draw = lambda count: torch.randn(s["b"], count, s["s"], s["d"])
    return draw(s["h"]), draw(kv), draw(kv), s["h"] != kv


def attention(case, compiled):
    case.only("causal")
    if compiled:
        raise NotImplementedError("one fused operation has nothing to compile")
    q, k, v, grouped = heads(case)
    causal = case.has("causal")

    def run():
        with torch.no_grad():
            F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

    return run


def attention_backward(case, compiled):
    case.only("causal")
    if compiled:
        raise NotImplementedError("one fused operation has nothing to compile")
    q, k, v, grouped = heads(case)
    for x in (q, k, v):
        x.requires_grad_()
    out = F.scaled_dot_product_attention(q, k, v, is_causal=case.has("causal"), enable_gqa=grouped)
    gradient = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)


class Block(torch.nn.Module):
    """One Transformer layer as GPT-2's or Llama's, by the case's flags; [b, s, h] in and out."""

    def __init__(self, case):
        super().__init__()
        size = case.size
        self.hidden, self.heads = size["h"], size["a"]
        self.kv = size.get("kv", self.heads)
        self.d = size.get("d", self.hidden // self.heads)
        features = size.get("f", 4 * self.hidden)
        bias = not case.has("no-bias")
        norm = torch.nn.RMSNorm if case.has("rmsnorm") else torch.nn.LayerNorm
        self.norm1, self.norm2 = norm(self.hidden, eps=1e-5), norm(self.hidden, eps=1e-5)
        linear = lambda i, o: torch.nn.Linear(i, o, bias=bias)
        self.qkv = linear(self.hidden, (self.heads + 2 * self.kv) * self.d)
        self.proj = linear(self.heads * self.d, self.hidden)
        self.gated, self.causal, self.rope = case.has("gated"), case.has("causal"), case.has("rope")
        self.fc1 = linear(self.hidden, 2 * features if self.gated else features)
        self.fc2 = linear(features, self.hidden)
        names = {"gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu, "silu": F.silu}
        self.act = next(f for name, f in names.items() if case.has(name))
        angle = torch.outer(torch.arange(size["s"]), 10000.0 ** (-torch.arange(0, self.d, 2) / self.d))
        angle = torch.cat((angle, angle), 1)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def turn(self, x):
        half = self.d // 2
        return x * self.cos + torch.cat((-x[..., half:], x[..., :half]), -1) * self.sin

    def attend(self, qkv):
        b, s, _ = qkv.shape
        q, k, v = qkv.split([self.heads * self.d, self.kv * self.d, self.kv * self.d], 2)
        split = lambda t: t.view(b, s, -1, self.d).transpose(1, 2)
        q, k, v = split(q), split(k), split(v)
        if self.rope:
            q, k = self.turn(q), self.turn(k)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=self.kv != self.heads)
        return o.transpose(1, 2).reshape(b, s, -1)

    def activate(self, y):
        if not self.gated:
            return self.act(y)
        gate, up = y.chunk(2, 2)
        return self.act(gate) * up

    def forward(self, x):
        x = x + self.proj(self.attend(self.qkv(self.norm1(x))))
        return x + self.fc2(self.activate(self.fc1(self.norm2(x))))


def block_parts(case):
    """The layer, an input, a gradient of its output: the same bits for the same case."""
    case.only("layernorm", "rmsnorm", "causal", "gated", "rope", "no-bias", "gelu", "gelu_tanh", "relu", "silu", "forward", "train")
    if case.size.get("l", 1) != 1 or case.size.get("w"):
        raise NotImplementedError(f"{case.text}: one layer without a window in this peer")
    torch.manual_seed(1)
    layer = Block(case)
    for parameter in layer.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))
    draw = lambda: torch.randn(case.size["b"], case.size["s"], layer.hidden)
    return layer, draw().requires_grad_(case.has("train")), draw()


def block(case, compiled):
    layer, x, dy = block_parts(case)
    run_layer = torch.compile(layer) if compiled else layer
    train = case.has("train")

    def run():
        if not train:
            with torch.no_grad():
                run_layer(x)
            return
        for parameter in layer.parameters():
            parameter.grad = None
        x.grad = None
        run_layer(x).backward(dy)

    return run
