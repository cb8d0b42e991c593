"""PyTorch's attention for bench/gpu/attention-peers.ts: cuDNN's kernels and FlashAttention-2 as PyTorch ships them, bf16, on
random normal inputs. Reads a line of JSON a request from stdin: {"open": problem}, {"time": true} or {"close": true};
answers each with a line of JSON. Times are of recorded graphs of several calls, medians, in milliseconds a call.

A problem has batch, heads, keyHeads, length, headDim, isCausal, window (0: none) and documents (lengths of all documents of all
rows, null: none). cuDNN gets q, k and v as [batch, head, position, column] and as [batch, position, head, column] in
memory; the faster counts."""
import json
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

CALLS, REPEATS = 5, 7
side = torch.cuda.Stream()


def random(*shape):
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def leaves(problem, is_head_first):
    b, t, d = problem["batch"], problem["length"], problem["headDim"]
    heads = [problem["heads"], problem["keyHeads"], problem["keyHeads"]]
    if is_head_first:
        return [random(b, h, t, d).requires_grad_() for h in heads]
    return [random(b, t, h, d).transpose(1, 2).requires_grad_() for h in heads]


def scaled_dot_product(backend, is_head_first):
    def make(problem):
        q, k, v = leaves(problem, is_head_first)
        is_grouped = problem["heads"] != problem["keyHeads"]
        is_causal = problem["isCausal"]

        def forward():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=is_grouped)

        return (q, k, v), forward

    return make


def flash_directly(problem):
    """The operator under FlashAttention-2, which also takes windows and packed documents."""
    rows = (problem["batch"], problem["length"])
    lengths, total = None, problem["length"]
    if problem["documents"] is not None:
        rows = (problem["batch"] * problem["length"],)
        ends = torch.tensor([0] + problem["documents"], device="cuda").cumsum(0).int()
        lengths, total = ends, max(problem["documents"])
    q, k, v = (
        random(*rows, problem[heads], problem["headDim"]).requires_grad_() for heads in ("heads", "keyHeads", "keyHeads")
    )
    window = problem["window"]
    sides = {"window_size_left": window - 1, "window_size_right": 0} if window > 0 else {}

    def forward():
        return torch.ops.aten._flash_attention_forward(
            q, k, v, lengths, lengths, total, total, 0.0, problem["isCausal"], False, **sides
        )[0]

    return (q, k, v), forward


def recorded(body):
    with torch.cuda.stream(side):
        body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for _ in range(CALLS):
            body()
    return graph


def median_ms(graph):
    with torch.cuda.stream(side):
        graph.replay()
        events = []
        for _ in range(REPEATS):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            events.append((begin, end))
        torch.cuda.synchronize()
    return sorted(begin.elapsed_time(end) for begin, end in events)[REPEATS // 2] / CALLS


def open_problem(problem):
    """Recorded graphs {(peer, pass): [graph ..]}, and why peers are missing."""
    is_plain = problem["window"] == 0 and problem["documents"] is None
    makers = {"flash": [flash_directly]}
    if is_plain:
        makers["cudnn"] = [scaled_dot_product(SDPBackend.CUDNN_ATTENTION, order) for order in (False, True)]
        makers["flash"].append(scaled_dot_product(SDPBackend.FLASH_ATTENTION, True))
    graphs, failures = {}, []
    for peer, forms in makers.items():
        for make in forms:
            try:
                inputs, forward = make(problem)
                with torch.cuda.stream(side):
                    out = forward()
                    gradient = torch.randn_like(out)

                def backward():
                    return torch.autograd.grad(out, inputs, gradient, retain_graph=True)

                graphs.setdefault((peer, "forward"), []).append(recorded(forward))
                graphs.setdefault((peer, "backward"), []).append(recorded(backward))
                graphs.setdefault("kept", []).append((inputs, out, gradient))
            except Exception as problem_error:
                failures.append(f"{peer}: {str(problem_error)[:160]}")
    return graphs, failures


def answer(value):
    print(json.dumps(value), flush=True)


graphs = {}
answer({"torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), "card": torch.cuda.get_device_name(0)})
for line in sys.stdin:
    request = json.loads(line)
    if "open" in request:
        graphs, failures = open_problem(request["open"])
        answer({"failures": failures})
    elif "time" in request:
        best = {}
        for key, alternatives in graphs.items():
            if key == "kept":
                continue
            best.setdefault(key[0], {})[key[1]] = min(median_ms(graph) for graph in alternatives)
        answer(best)
    else:
        graphs = {}
        torch.cuda.empty_cache()
        answer({})
