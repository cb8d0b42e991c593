"""Training steps of a GPT-2 or Llama shape in PyTorch at its best, from the weights and tokens of bench/gpu/train-step.ts.

python3 torch_step.py --config JSON --batch 32 --seq 1024 --steps 50 --variants default,chunked: prints a line of JSON for
each variant: losses, milliseconds of every step, memory. Weights and tokens are made here from the same counter-based
streams as there (Philox4x32-10; src/core/random.ts), so nothing is exchanged but the configuration.

Variants, joined by +: default, reduce-overhead, max-autotune (modes of torch.compile), eager, chunked (the loss from the
last hidden states by chunks of rows, gradients made in the forward, never all logits), cudnn or flash (attention)."""
import argparse
import contextlib
import gc
import json
import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

MASK = 0xFFFFFFFF


def philox(c0, c1, c2, c3, key):
    """One block; ints, or int64 tensors (products wrap at 2^64, which leaves their halves right)."""
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & MASK) ^ c1 ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def random_key(seed, stream):
    hashed = 0xCBF29CE484222325
    for byte in stream.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) & (2**64 - 1)
    return philox(hashed & MASK, hashed >> 32, 0, 0, (seed & MASK, seed >> 32))[:2]


def random_words(key, start, count, device):
    """32-bit words start .. of a stream; start is a multiple of 4."""
    block = torch.arange(start // 4, (start + count + 3) // 4, device=device)
    zero = torch.zeros_like(block)
    return torch.stack(philox(block & MASK, block >> 32, zero, zero, key), 1).flatten()[:count]


def fill_normal(out, seed, stream, std):
    """The normal numbers of src/core/random.ts, to the last bit or nearly: rounded to f32 from float64."""
    key, flat = random_key(seed, stream), out.view(-1)
    step = 1 << 24
    for start in range(0, flat.numel(), step):
        count = min(step, flat.numel() - start)
        uniform = (random_words(key, start, count, out.device).double() + 0.5) * 2.0**-32
        flat[start : start + count] = (std * torch.special.ndtri(uniform)).float()


def batch_of(step, args, vocab_size):
    """Rows of seq + 1 random tokens: inputs and the next tokens."""
    count = args.batch * (args.seq + 1)
    words = random_words(random_key(args.seed, f"bench tokens {step}"), 0, count, args.device)
    tokens = ((words * vocab_size) >> 32).view(args.batch, args.seq + 1)
    rows = torch.stack([tokens[:, :-1], tokens[:, 1:]]).contiguous().cpu()
    return rows.pin_memory() if args.device == "cuda" else rows


class RmsNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        if hasattr(F, "rms_norm"):
            return F.rms_norm(x, (x.size(-1),), self.weight, self.eps)
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


def attention(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.size(-1))
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, f = config["hiddenSize"], config["intermediateSize"]
        self.is_llama, self.heads = config["modelType"] == "llama", config["numAttentionHeads"]
        norm = (lambda: RmsNorm(d, config["rmsNormEps"])) if self.is_llama else (lambda: nn.LayerNorm(d, config["layerNormEps"]))
        bias = not self.is_llama
        self.norm1, self.norm2 = norm(), norm()
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=bias), nn.Linear(d, d, bias=bias)
        self.up, self.down = nn.Linear(d, 2 * f if self.is_llama else f, bias=bias), nn.Linear(f, d, bias=bias)

    def forward(self, x, cos, sin):
        B, T, D = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.is_llama:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        x = x + self.out(attention(q, k, v).transpose(1, 2).reshape(B, T, D))
        u = self.up(self.norm2(x))
        if self.is_llama:
            gate, up = u.chunk(2, -1)
            return x + self.down(F.silu(gate) * up)
        return x + self.down(F.gelu(u, approximate="tanh"))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Model(nn.Module):
    def __init__(self, config, seq):
        super().__init__()
        v, d = config["vocabSize"], config["hiddenSize"]
        self.is_llama = config["modelType"] == "llama"
        self.embedding = nn.Embedding(v, d)
        self.positions = None if self.is_llama else nn.Embedding(config["maxPositionEmbeddings"], d)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["numHiddenLayers"]))
        self.norm = RmsNorm(d, config["rmsNormEps"]) if self.is_llama else nn.LayerNorm(d, config["layerNormEps"])
        self.head = nn.Linear(d, v, bias=False)
        if config.get("tieWordEmbeddings", True):
            self.head.weight = self.embedding.weight
        half = d // config["numAttentionHeads"] // 2
        frequencies = 1 / config.get("ropeTheta", 10000.0) ** (torch.arange(half).float() / half)
        angles = torch.outer(torch.arange(seq).float(), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def hidden(self, tokens):
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.size(1)]
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.norm(x)

    def forward(self, tokens, targets):
        return F.cross_entropy(self.head(self.hidden(tokens)).flatten(0, 1).float(), targets.flatten())

    @torch.no_grad()
    def fill(self, config, seed):
        """Initial weights by Hugging Face name; GPT-2 stores matrices [in, out]."""
        std = config["initializerRange"]
        residual = std / math.sqrt(2 * config["numHiddenLayers"])

        def put(target, name, scale, is_transposed=False):
            if not is_transposed:
                fill_normal(target, seed, f"init.{name}", scale)
                return
            stored = torch.empty(target.shape[::-1], device=target.device)
            fill_normal(stored, seed, f"init.{name}", scale)
            target.copy_(stored.t())

        if not self.is_llama:
            put(self.embedding.weight, "transformer.wte.weight", std)
            put(self.positions.weight, "transformer.wpe.weight", std)
            for i, block in enumerate(self.blocks):
                for part, name, scale in (
                    (block.qkv, "attn.cAttn", std),
                    (block.out, "attn.cProj", residual),
                    (block.up, "mlp.cFc", std),
                    (block.down, "mlp.cProj", residual),
                ):
                    put(part.weight, f"transformer.h.{i}.{name}.weight", scale, True)
                    part.bias.zero_()
            return
        put(self.embedding.weight, "model.embedTokens.weight", std)
        for i, block in enumerate(self.blocks):
            for part, names, scale in (
                (block.qkv, ("selfAttn.qProj", "selfAttn.kProj", "selfAttn.vProj"), std),
                (block.out, ("selfAttn.oProj",), residual),
                (block.up, ("mlp.gateProj", "mlp.upProj"), std),
                (block.down, ("mlp.downProj",), residual),
            ):
                for name, rows in zip(names, part.weight.chunk(len(names))):
                    put(rows, f"model.layers.{i}.{name}.weight", scale)
        put(self.head.weight, "lmHead.weight", std)


def loss_and_gradient(logits, targets, scale):
    """Sum of the losses of a chunk and the gradient of its logits."""
    z = logits.float()
    lse = torch.logsumexp(z, -1, keepdim=True)
    picked = torch.arange(z.size(-1), device=z.device) == targets[:, None]
    loss = (lse.squeeze(-1) - z.gather(-1, targets[:, None]).squeeze(-1)).sum()
    return loss, ((torch.exp(z - lse) - picked.float()) * scale).to(logits.dtype)


class ChunkedLoss(torch.autograd.Function):
    """Mean cross-entropy of hidden W^T, chunk by chunk; the gradients are made on the way (the root gets gradient 1)."""

    kernel = staticmethod(loss_and_gradient)
    dtype = torch.float32
    chunk_rows = 8192

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        rows = targets.numel()
        total, d_weight = 0.0, None
        # The norm before leaves f32 under autocast.
        with torch.autocast(hidden.device.type, enabled=False):
            x, w = hidden.to(ChunkedLoss.dtype), weight.to(ChunkedLoss.dtype)
            d_hidden = torch.empty_like(x)
            for start in range(0, rows, ChunkedLoss.chunk_rows):
                part = slice(start, start + ChunkedLoss.chunk_rows)
                loss, d_logits = ChunkedLoss.kernel(x[part] @ w.t(), targets[part], 1.0 / rows)
                total = total + loss
                torch.mm(d_logits, w, out=d_hidden[part])
                try:
                    product = torch.mm(d_logits.t(), x[part], out_dtype=torch.float32)
                except (TypeError, RuntimeError):
                    product = (d_logits.t() @ x[part]).float()
                d_weight = product if d_weight is None else d_weight.add_(product)
        ctx.save_for_backward(d_hidden.to(hidden.dtype), d_weight)
        return total / rows

    @staticmethod
    def backward(ctx, _):
        return (*ctx.saved_tensors, None)


def attention_context(variant):
    if not {"cudnn", "flash"} & set(variant):
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.CUDNN_ATTENTION if "cudnn" in variant else SDPBackend.FLASH_ATTENTION)


def train(args, config, name, batches):
    variant, is_cuda = name.split("+"), args.device == "cuda"
    started = time.perf_counter()
    model = Model(config, args.seq).to(args.device)
    model.fill(config, args.seed)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    fused = {"fused": True} if is_cuda else {}
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.999), eps=1e-8, **fused)
    mode = next((word for word in variant if word in ("reduce-overhead", "max-autotune")), None)
    compiled = (lambda f: f) if "eager" in variant else (lambda f: torch.compile(f, mode=mode))
    if "chunked" in variant:
        hidden = compiled(model.hidden)
        ChunkedLoss.kernel = staticmethod(
            loss_and_gradient if "eager" in variant else torch.compile(loss_and_gradient, dynamic=False)
        )
        head = model.head.weight
        loss_of = lambda x, y: ChunkedLoss.apply(hidden(x).flatten(0, 1), head, y.flatten())
    else:
        loss_of = compiled(model)
    ChunkedLoss.dtype = torch.bfloat16 if is_cuda else torch.float32
    precision = torch.autocast("cuda", torch.bfloat16) if is_cuda else contextlib.nullcontext()
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    losses, marks = [], []

    def mark():
        if is_cuda:
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.perf_counter())

    mark()
    with attention_context(variant):
        for step in range(args.steps):
            x, y = batches[step].to(args.device, non_blocking=True)
            if mode is not None and hasattr(torch, "compiler"):
                torch.compiler.cudagraph_mark_step_begin()
            with precision:
                loss = loss_of(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach().clone())
            mark()
            if step == 0 and is_cuda:
                torch.cuda.synchronize()
                compile_seconds = time.perf_counter() - started
    if is_cuda:
        torch.cuda.synchronize()
        ms = [a.elapsed_time(b) for a, b in zip(marks, marks[1:])]
        free, total = torch.cuda.mem_get_info()
        memory = {"peakBytes": torch.cuda.max_memory_allocated(), "cardBytes": total - free, "startSeconds": compile_seconds}
    else:
        ms, memory = [(b - a) * 1e3 for a, b in zip(marks, marks[1:])], {}
    return {"losses": [float(loss) for loss in losses], "ms": ms, **memory}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seq", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--variants", default="default")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--weight-decay", type=float, required=True)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    config = json.loads(args.config)
    torch.set_float32_matmul_precision("high")
    batches = [batch_of(step, args, config["vocabSize"]) for step in range(args.steps)]
    for variant in args.variants.split(","):
        result = {"variant": variant, "version": torch.__version__}
        try:
            result.update(train(args, config, variant, batches))
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        print(json.dumps(result), flush=True)
        if hasattr(torch, "_dynamo"):
            torch._dynamo.reset()
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
