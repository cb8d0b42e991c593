"""Training steps of a GPT-2 shape in PyTorch (f32, eager), from the weights and tokens that bench/versus-torch.ts wrote.

python3 torch_step.py FOLDER STEPS THREADS: reads FOLDER/config.json, model.safetensors, tokens.bin and targets.bin (i32),
prints one line of JSON: version, losses and milliseconds of each step. Needs torch (any from 1.13 on) and numpy."""
import json
import math
import struct
import sys
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32", name
        start, end = entry["data_offsets"]
        tensors[name] = torch.from_numpy(np.frombuffer(data[start:end], np.float32).reshape(entry["shape"]).copy())
    return tensors


class Conv1D(nn.Module):
    """y = x W + b with W [in, out], as GPT-2 stores it."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


class Block(nn.Module):
    def __init__(self, weights, prefix, heads):
        super().__init__()
        self.heads = heads
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            layer = Conv1D(weights[f"{prefix}.{name}.weight"], weights[f"{prefix}.{name}.bias"])
            setattr(self, name.replace(".", "_"), layer)
        for name in ("ln_1", "ln_2"):
            norm = nn.LayerNorm(weights[f"{prefix}.{name}.weight"].numel(), eps=1e-5)
            norm.weight.data, norm.bias.data = weights[f"{prefix}.{name}.weight"], weights[f"{prefix}.{name}.bias"]
            setattr(self, name, norm)

    def forward(self, x, mask):
        batch, length, width = x.shape
        qkv = self.attn_c_attn(self.ln_1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if hasattr(F, "scaled_dot_product_attention"):
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-1, -2)) / math.sqrt(width // self.heads)
            mixed = scores.masked_fill(mask, float("-inf")).softmax(-1) @ v
        x = x + self.attn_c_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp_c_proj(F.gelu(self.mlp_c_fc(self.ln_2(x))))


class Gpt2(nn.Module):
    def __init__(self, weights, config):
        super().__init__()
        self.wte = nn.Parameter(weights["transformer.wte.weight"])
        self.wpe = nn.Parameter(weights["transformer.wpe.weight"])
        layers = range(config["n_layer"])
        self.h = nn.ModuleList(Block(weights, f"transformer.h.{i}", config["n_head"]) for i in layers)
        self.ln_f = nn.LayerNorm(config["n_embd"], eps=1e-5)
        self.ln_f.weight.data = weights["transformer.ln_f.weight"]
        self.ln_f.bias.data = weights["transformer.ln_f.bias"]
        positions = config["n_positions"]
        self.register_buffer("mask", ~torch.ones(positions, positions, dtype=torch.bool).tril())

    def forward(self, tokens, targets):
        x = F.embedding(tokens, self.wte) + self.wpe
        for block in self.h:
            x = block(x, self.mask)
        return F.cross_entropy(F.linear(self.ln_f(x), self.wte).flatten(0, 1), targets.flatten())


folder, steps, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
with open(f"{folder}/config.json") as file:
    config = json.load(file)
model = Gpt2(read_safetensors(f"{folder}/model.safetensors"), config)
decayed = [p for p in model.parameters() if p.dim() > 1]
rest = [p for p in model.parameters() if p.dim() <= 1]
groups = [{"params": decayed, "weight_decay": config["bench"]["weight_decay"]}, {"params": rest, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=config["bench"]["lr"], betas=tuple(config["bench"]["betas"]), eps=1e-8)
ids = lambda name: torch.from_numpy(np.fromfile(f"{folder}/{name}.bin", np.int32).astype(np.int64))
tokens = ids("tokens").view(-1, config["n_positions"])
targets = ids("targets").view(-1, config["n_positions"])
losses, times = [], []
for _ in range(steps):
    start = time.perf_counter()
    loss = model(tokens, targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    losses.append(loss.item())
    times.append((time.perf_counter() - start) * 1e3)
print(json.dumps({"version": torch.__version__, "losses": losses, "ms": times}))
