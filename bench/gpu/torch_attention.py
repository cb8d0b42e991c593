"""Attention in PyTorch for bench/gpu/attention.ts: vanilla (two products and a softmax, the whole matrix of scores in
device memory), and the fused kernels that PyTorch brings. Full (not causal), bf16, heads of 128.

python3 torch_attention.py times N,N,... : a line of JSON for each N and kind
python3 torch_attention.py once N forward|backward : one pass of the vanilla form between cudaProfilerStart and Stop
python3 torch_attention.py longest N,N,... : forward and backward of one sequence of each length until memory is short"""
import json
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

TOKENS, HEADS, HEAD_DIM = 16384, 16, 128


def inputs(batch, length):
    shape = (batch, HEADS, length, HEAD_DIM)
    return [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]


def vanilla(q, k, v):
    scores = (q * HEAD_DIM**-0.5) @ k.transpose(-1, -2)
    return scores.softmax(-1) @ v


def fused(backend):
    def run(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return run


KINDS = {
    "vanilla, PyTorch": vanilla,
    "FlashAttention-2": fused(SDPBackend.FLASH_ATTENTION),
    "cuDNN": fused(SDPBackend.CUDNN_ATTENTION),
}


def median_ms(call, repeats):
    times = []
    for i in range(repeats + 2):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        call()
        b.record()
        torch.cuda.synchronize()
        if i >= 2:
            times.append(a.elapsed_time(b))
    return sorted(times)[len(times) // 2]


def times(lengths):
    for length in lengths:
        for kind, attend in KINDS.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            row = {"who": kind, "length": length}
            try:
                q, k, v = inputs(max(1, TOKENS // length), length)
                row["forwardMs"] = median_ms(lambda: attend(q, k, v), 9)
                out = attend(q, k, v)
                grad = torch.randn_like(out)
                backward = lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)
                row["backwardMs"] = median_ms(backward, 9)
                row["peakBytes"] = torch.cuda.max_memory_allocated()
                del out, grad, backward
            except torch.cuda.OutOfMemoryError:
                row["error"] = "out of memory"
            q = k = v = None
            print(json.dumps(row), flush=True)


def once(length, which):
    q, k, v = inputs(max(1, TOKENS // length), length)
    out = vanilla(q, k, v)
    grad = torch.randn_like(out)
    torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    if which == "forward":
        vanilla(q, k, v)
    else:
        torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()


def longest(lengths):
    for length in lengths:
        torch.cuda.empty_cache()
        row = {"who": "vanilla, PyTorch", "longest": length}
        try:
            q, k, v = inputs(1, length)
            vanilla(q, k, v).sum().backward()
            torch.cuda.synchronize()
            row["peakBytes"] = torch.cuda.max_memory_allocated()
        except torch.cuda.OutOfMemoryError:
            row["error"] = "out of memory"
        print(json.dumps(row), flush=True)
        if "error" in row:
            return


command, first = sys.argv[1], sys.argv[2]
if command == "once":
    once(int(first), sys.argv[3])
else:
    {"times": times, "longest": longest}[command]([int(n) for n in first.split(",")])
