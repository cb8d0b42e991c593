"""Writes the golden files of test/golden: what PyTorch and transformers compute for tiny models and optimizers.

    python tools/make-golden.py [folder]        (default: test/golden beside this file)

Needs torch and transformers (the versions used are printed and stored in the files). Everything runs on one CPU thread,
the models in float32 with eager attention, the optimizers in float64, from fixed seeds: the same versions on the same
kind of processor write the same bytes. Reads nothing, downloads nothing, and is not part of the test suite.
"""

import base64
import copy
import json
import math
import pathlib
import platform
import sys
from unittest import mock

import torch
import torch.nn.functional as F
import transformers
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers import optimization as hf_schedules

BATCH, SEQ_LEN, STEPS = 3, 29, 10
ADAMW = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weightDecay": 0.1, "gradClip": 1.0}
# Rows of documents packed together: lengths that fill SEQ_LEN.
PACKED_ROWS = [[12, 17], [5, 24]]


def versions():
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def encode(tensor):
    """float32 as base64 of little-endian bytes."""
    data = tensor.detach().to(torch.float32).contiguous().numpy().astype("<f4").tobytes()
    return {"shape": list(tensor.shape), "f32": base64.b64encode(data).decode("ascii")}


def json_lines(value, indent=""):
    """JSON with one line for each list or tensor, so that a diff shows which one changed."""
    if not isinstance(value, dict) or "f32" in value:
        return json.dumps(value, allow_nan=False)
    inner = indent + " "
    rows = [f"{inner}{json.dumps(str(key))}: {json_lines(item, inner)}" for key, item in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def write_json(path, value):
    path.write_text(json_lines(value) + "\n", encoding="ascii")
    print(f"{path.name:24} {path.stat().st_size / 1e3:8.1f} kB  {path.parent.name}")


def randomize(model, seed):
    """Weights large enough that no gradient is tiny; norms and biases away from 1 and 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter, mean, std):
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * std + mean
        parameter.copy_(values.to(parameter.dtype))

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                normal(parameter, 0, 0.2)
            elif parameter.dim() == 1:
                normal(parameter, 1, 0.2)
            elif "wte" in name or "wpe" in name or "embed" in name or "lm_head" in name:
                normal(parameter, 0, 0.4)
            else:
                normal(parameter, 0, 0.18)


def make_batches(vocab_size, seed):
    """STEPS batches of tokens and next tokens [BATCH, SEQ_LEN]; about a sixth of the targets is -1 (not trained)."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(STEPS):
        stream = torch.randint(0, vocab_size, (BATCH, SEQ_LEN + 1), generator=generator)
        ignored = torch.rand((BATCH, SEQ_LEN), generator=generator) < 1 / 6
        ignored[1, :7] = True
        targets = stream[:, 1:].clone()
        targets[ignored] = -1
        batches.append((stream[:, :-1].contiguous(), targets))
    return batches


def loss_of(logits, targets):
    """Mean over trained tokens."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def run_model(model, vocab_size, seed):
    """Forward and backward of the first batch, then STEPS AdamW steps, each on a batch of its own."""
    randomize(model, seed)
    model.train()  # dropout is 0 everywhere: same numbers as eval
    batches = make_batches(vocab_size, seed + 1)
    golden = {"versions": versions(), "adamw": ADAMW}
    golden["batches"] = [{"tokens": x.flatten().tolist(), "targets": y.flatten().tolist()} for x, y in batches]
    golden["shape"] = [BATCH, SEQ_LEN]
    golden["weights"] = {name: encode(p) for name, p in model.named_parameters()}
    golden["packed"] = run_documents(model, vocab_size, seed + 2)

    tokens, targets = batches[0]
    logits = model(input_ids=tokens, use_cache=False).logits
    loss = loss_of(logits, targets)
    loss.backward()
    golden["logits"] = encode(logits)
    golden["loss"] = loss.item()
    golden["gradients"] = {name: encode(p.grad) for name, p in model.named_parameters()}

    # AdamW's first updates are signs: a gradient that happens to be 0 up to rounding gives either. Such a file would be
    # no fair one, so float64 must agree about every loss.
    exact = copy.deepcopy(model).double()
    losses, norms = train(model, batches)
    exact_losses, _ = train(exact, batches)
    spread = max(abs(a - b) / b for a, b in zip(losses, exact_losses))
    assert spread < 5e-7, f"choose another seed: float32 and float64 losses differ by {spread:.1e}"
    golden["losses"] = losses
    golden["gradNorms"] = norms
    print(f"  losses {losses[0]:.6f} .. {losses[-1]:.6f}, gradient norms {min(norms):.3f} .. {max(norms):.3f}")
    print(f"  float64 losses differ by {spread:.1e} at most")
    return golden


def train(model, batches):
    """One AdamW step on each batch: losses before the step, gradient norms before clipping."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": ADAMW["weightDecay"]}, {"params": vectors, "weight_decay": 0.0}],
        lr=ADAMW["lr"],
        betas=(ADAMW["beta1"], ADAMW["beta2"]),
        eps=ADAMW["eps"],
    )
    losses, norms = [], []
    for tokens, targets in batches:
        optimizer.zero_grad()
        loss = loss_of(model(input_ids=tokens, use_cache=False).logits, targets)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), ADAMW["gradClip"]).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def run_documents(model, vocab_size, seed):
    """Logits of documents that run apart; Trainyard packs them in rows."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    with torch.no_grad():
        for lengths in PACKED_ROWS:
            documents = [torch.randint(0, vocab_size, (1, n), generator=generator) for n in lengths]
            logits = torch.cat([model(input_ids=d, use_cache=False).logits[0] for d in documents])
            rows.append({"documents": [d[0].tolist() for d in documents], "logits": encode(logits)})
    return rows


def write_model(folder, name, model, seed):
    print(name)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    golden = run_model(model, model.config.vocab_size, seed)
    model.config.save_pretrained(target)  # config.json as transformers writes it
    write_json(target / "golden.json", golden)


def write_models(folder):
    gpt2 = GPT2Config(
        vocab_size=97,
        n_embd=36,
        n_layer=3,
        n_head=4,
        n_positions=40,
        n_inner=100,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    write_model(folder, "gpt2", GPT2LMHeadModel(gpt2), 100)

    llama = {
        "vocab_size": 101,
        "hidden_size": 40,
        "intermediate_size": 60,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attn_implementation": "eager",
    }
    # Of the six wavelengths (6, 29, 135 ... positions) the first stays, the second is blended, the rest are stretched:
    # positions up to 28 see all three cases.
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    tied = LlamaConfig(**llama, rope_parameters=rope, tie_word_embeddings=True)
    write_model(folder, "llama-tied", LlamaForCausalLM(tied), 200)
    plain_rope = {"rope_type": "default", "rope_theta": 500.0}
    untied = LlamaConfig(**llama, rope_parameters=plain_rope, tie_word_embeddings=False)
    write_model(folder, "llama-untied", LlamaForCausalLM(untied), 700)


# Optimizers: noisy quadratics  f_t(w) = sum (curvature (w - center)^2) / 2 + sum noise_t w  in float64.

PARAMETERS = {
    # name -> shape; the names say what Muon takes: matrices of layers, not embeddings and vectors.
    "model.layers.0.mlp.gate_proj.weight": (3, 5),
    "model.layers.0.mlp.up_proj.weight": (6, 5),
    "model.layers.0.mlp.down_proj.weight": (7, 3),
    "model.layers.0.norm.weight": (4,),
    "model.embed_tokens.weight": (6, 3),
}
RECORDED = [1, 2, 3, 10]


def quadratic(seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    problem = {}
    for name, shape in PARAMETERS.items():
        problem[name] = {
            "start": normal(*shape),
            "center": normal(*shape),
            "curvature": 0.5 + 1.5 * torch.rand(shape, generator=generator, dtype=torch.float64),
            "noise": normal(STEPS, *shape),
        }
    return problem


def minimize(problem, update, grad_clip=0.0):
    """Runs STEPS updates; update(step, weights, gradients) changes the weights in place."""
    weights = {name: p["start"].clone().requires_grad_() for name, p in problem.items()}
    recorded = {}
    for step in range(1, STEPS + 1):
        for name, p in problem.items():
            loss = (p["curvature"] * (weights[name] - p["center"]) ** 2).sum() / 2
            loss = loss + (p["noise"][step - 1] * weights[name]).sum()
            weights[name].grad = None
            loss.backward()
        if grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(weights.values(), grad_clip)
        with torch.no_grad():
            update(step, weights)
        if step in RECORDED:
            recorded[step] = {name: w.detach().flatten().tolist() for name, w in weights.items()}
    return recorded


def from_torch(make):
    """An update that makes its torch optimizers on the first step, with matrices and vectors in two groups."""
    made = []

    def update(_step, weights):
        if not made:
            made.extend(make(weights))
        for optimizer in made:
            optimizer.step()

    return update


def groups(weights, weight_decay):
    return [
        {"params": [w for w in weights.values() if w.dim() >= 2], "weight_decay": weight_decay},
        {"params": [w for w in weights.values() if w.dim() < 2], "weight_decay": 0.0},
    ]


def decay(weights, lr, weight_decay):
    for w in weights.values():
        if w.dim() >= 2:
            w.mul_(1 - lr * weight_decay)


def sgd_update(lr, momentum, nesterov, weight_decay):
    """torch.optim.SGD adds its decay to the gradient; Trainyard's is decoupled, so it is done by hand before."""
    inner = from_torch(lambda w: [torch.optim.SGD(w.values(), lr=lr, momentum=momentum, nesterov=nesterov)])

    def update(step, weights):
        decay(weights, lr, weight_decay)
        inner(step, weights)

    return update


def lion_update(lr, beta1, beta2, weight_decay):
    """By the formula of Chen et al. 2023, algorithm 2."""
    state = {}

    def update(_step, weights):
        for name, w in weights.items():
            m = state.setdefault(name, torch.zeros_like(w))
            direction = beta1 * m + (1 - beta1) * w.grad
            # Nearer to zero, rounding to float32 could turn a sign, and the golden would not be a fair one.
            assert direction.abs().min() > 1e-4, f"choose another seed: {direction.abs().min()}"
            if w.dim() >= 2:
                w.mul_(1 - lr * weight_decay)
            w.sub_(lr * direction.sign())
            state[name] = beta2 * m + (1 - beta2) * w.grad

    return update


def is_muon_matrix(name):
    return PARAMETERS[name][1:] != () and "embed" not in name


def newton_schulz(g):
    """Five iterations of the quintic in the precision of g, as Jordan's code has them (norm + 1e-7; PyTorch clamps)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def muon_update(lr, momentum, weight_decay, beta1, beta2, eps):
    """By formula; AdamW for embeddings and vectors."""
    state = {}

    def rest(weights):
        return {name: w for name, w in weights.items() if not is_muon_matrix(name)}

    adamw = from_torch(
        lambda w: [torch.optim.AdamW(groups(rest(w), weight_decay), lr=lr, betas=(beta1, beta2), eps=eps)]
    )

    def update(step, weights):
        adamw(step, weights)
        for name, w in weights.items():
            if not is_muon_matrix(name):
                continue
            m = momentum * state.get(name, torch.zeros_like(w)) + w.grad
            state[name] = m
            direction = newton_schulz(w.grad + momentum * m)
            w.mul_(1 - lr * weight_decay)
            w.sub_(lr * 0.2 * math.sqrt(max(w.shape)) * direction)

    return update


def torch_muon_update(lr, momentum, weight_decay, beta1, beta2, eps):
    """torch.optim.Muon itself. It casts to bfloat16 for its iterations; here that cast is left out."""

    def make(weights):
        matrices = [w for name, w in weights.items() if is_muon_matrix(name)]
        rest = {name: w for name, w in weights.items() if not is_muon_matrix(name)}
        return [
            torch.optim.Muon(
                matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(groups(rest, weight_decay), lr=lr, betas=(beta1, beta2), eps=eps),
        ]

    inner = from_torch(make)

    def update(step, weights):
        with mock.patch.object(torch.Tensor, "bfloat16", lambda tensor: tensor.clone()):
            inner(step, weights)

    return update


def write_optimizers(folder):
    print("optimizers")
    problem = quadratic(7)
    adam_options = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    betas = {"betas": (0.9, 0.95), "eps": 1e-8}
    lr = 0.05
    runs = {
        "adamw": (
            {**adam_options, "weightDecay": 0.1},
            from_torch(lambda w: [torch.optim.AdamW(groups(w, 0.1), lr=lr, **betas)]),
            0.0,
        ),
        "adamw clipped": (
            {**adam_options, "weightDecay": 0.1},
            from_torch(lambda w: [torch.optim.AdamW(groups(w, 0.1), lr=lr, **betas)]),
            1.0,
        ),
        "adam": (adam_options, from_torch(lambda w: [torch.optim.Adam(w.values(), lr=lr, **betas)]), 0.0),
        "adam with decay": (
            {**adam_options, "weightDecay": 0.1},
            from_torch(lambda w: [torch.optim.Adam(groups(w, 0.1), lr=lr, **betas)]),
            0.0,
        ),
        "sgd": ({"weightDecay": 0.1}, sgd_update(lr, 0.0, False, 0.1), 0.0),
        "sgd momentum": ({"momentum": 0.9, "weightDecay": 0.1}, sgd_update(lr, 0.9, False, 0.1), 0.0),
        "sgd nesterov": (
            {"momentum": 0.9, "nesterov": True, "weightDecay": 0.1},
            sgd_update(lr, 0.9, True, 0.1),
            0.0,
        ),
        "sgd clipped": ({}, sgd_update(lr, 0.0, False, 0.0), 1.0),
        "lion": ({"beta1": 0.9, "beta2": 0.99, "weightDecay": 0.1}, lion_update(lr, 0.9, 0.99, 0.1), 0.0),
        "muon": (
            {**adam_options, "momentum": 0.95, "weightDecay": 0.1},
            muon_update(lr, 0.95, 0.1, 0.9, 0.95, 1e-8),
            0.0,
        ),
        "muon of torch": (
            {**adam_options, "momentum": 0.95, "weightDecay": 0.1},
            torch_muon_update(lr, 0.95, 0.1, 0.9, 0.95, 1e-8),
            0.0,
        ),
    }
    value = {
        "versions": versions(),
        "lr": lr,
        "problem": {
            name: {"shape": list(PARAMETERS[name]), **{key: t.flatten().tolist() for key, t in p.items()}}
            for name, p in problem.items()
        },
        "runs": {
            name: {"options": options, "gradClip": grad_clip, "weights": minimize(problem, update, grad_clip)}
            for name, (options, update, grad_clip) in runs.items()
        },
        "schedules": schedules(),
    }
    write_json(folder / "optimizers.json", value)


def schedules():
    """Learning rates of steps 1..maxSteps from torch's and transformers' schedulers (their step counts from 0)."""
    lr, min_lr, warmup, max_steps, decay_steps = 3e-4, 3e-5, 7, 40, 12

    def rates(make):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        scheduler = make(optimizer)
        values = []
        for _ in range(max_steps + 1):
            values.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        return values[1:]

    common = {"lr": lr, "maxSteps": max_steps, "decayFraction": decay_steps / max_steps}
    warm = {**common, "warmupSteps": warmup}
    t = hf_schedules
    rows = [
        (
            "transformers get_cosine_schedule_with_warmup",
            {**warm, "kind": "cosine", "minLr": 0.0},
            lambda o: t.get_cosine_schedule_with_warmup(o, warmup, max_steps),
        ),
        (
            "transformers get_cosine_with_min_lr_schedule_with_warmup",
            {**warm, "kind": "cosine", "minLr": min_lr},
            lambda o: t.get_cosine_with_min_lr_schedule_with_warmup(o, warmup, max_steps, min_lr=min_lr),
        ),
        (
            "transformers get_linear_schedule_with_warmup",
            {**warm, "kind": "linear", "minLr": 0.0},
            lambda o: t.get_linear_schedule_with_warmup(o, warmup, max_steps),
        ),
        (
            "transformers get_wsd_schedule",
            {**warm, "kind": "wsd", "minLr": 0.0},
            lambda o: t.get_wsd_schedule(
                o, warmup, decay_steps, num_training_steps=max_steps, decay_type="linear", min_lr_ratio=0.0
            ),
        ),
        (
            # Its warm-up starts from the lowest rate too, Trainyard's from 0: hence none here.
            "transformers get_wsd_schedule with a lowest rate",
            {**common, "warmupSteps": 0, "kind": "wsd", "minLr": min_lr},
            lambda o: t.get_wsd_schedule(
                o, 0, decay_steps, num_training_steps=max_steps, decay_type="linear", min_lr_ratio=min_lr / lr
            ),
        ),
        (
            "transformers get_constant_schedule_with_warmup",
            {**warm, "kind": "constant", "minLr": 0.0},
            lambda o: t.get_constant_schedule_with_warmup(o, warmup),
        ),
        (
            "torch CosineAnnealingLR",
            {**common, "warmupSteps": 0, "kind": "cosine", "minLr": min_lr},
            lambda o: CosineAnnealingLR(o, T_max=max_steps, eta_min=min_lr),
        ),
        (
            "torch LinearLR",
            {**common, "warmupSteps": 0, "kind": "linear", "minLr": min_lr},
            lambda o: LinearLR(o, 1.0, min_lr / lr, max_steps),
        ),
    ]
    return [{"name": name, "config": config, "rates": rates(make)} for name, config, make in rows]


def main():
    beside = pathlib.Path(__file__).parent.parent / "test" / "golden"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else beside
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    for name, version in versions().items():
        print(f"{name} {version}")
    write_models(folder)
    write_optimizers(folder)


if __name__ == "__main__":
    main()
