"""Checks, both ways, that models of Trainyard and of transformers are the same: logits, greedy tokens, tokenizers.

    python tools/check-transformers.py [--stories FOLDER]      runs the check
    python tools/check-transformers.py --record                writes test/interop/recorded.json instead
    python tools/check-transformers.py --plant-fault transposed-weight | rotary-order      must fail, with exit code 1

Needs torch and transformers in this Python. `npm test` runs it with the Python that TRAINYARD_PYTHON names (python3 if
nothing does), where that has both. --stories names a folder with llama2.c's stories260K.bin, tok512.bin and the text
stories260K-greedy-200-steps.txt. Makes its models in a temporary folder, downloads nothing. Prints a table, then
"N passed, N failed", and ends with exit code 1 if anything failed.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOCAL_NODE = ROOT / "node_modules/.bin/node"
NODE = LOCAL_NODE if LOCAL_NODE.exists() else "node"
RECORDED = ROOT / "test/interop/recorded.json"
TOLERANCE = 1e-4
GREEDY = 64
TEXT = "The State of the Union, 1862: it's \u00e9t\u00e9,\tand 12345 caf\u00e9s \U0001f600.\n\nNothing else <|endoftext|> matters  "

torch.set_num_threads(2)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
rows = []


def trainyard(*words):
    result = subprocess.run([NODE, ROOT / "tools/trainyard.mjs", *map(str, words)], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"trainyard {' '.join(map(str, words))}: {result.stderr.strip()}")
    return result.stdout


def ours(folder, ids, count=GREEDY):
    """Logits [tokens, vocabulary] and greedy tokens, from tools/model-outputs.ts."""
    logits = pathlib.Path(folder).parent / "logits.bin"
    command = [NODE, ROOT / "tools/model-outputs.ts", folder, logits, str(count), *map(str, ids)]
    greedy = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return torch.from_numpy(np.fromfile(logits, np.float32)).view(len(ids), -1), greedy


def theirs(folder, ids, count=GREEDY):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        prompt = torch.tensor([ids])
        logits = model(prompt).logits[0]
        made = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(ids) :].tolist()
    return logits, made


def record(name, detail, passed):
    rows.append(passed)
    print(f"{'ok' if passed else 'FAILED':6}  {name:54}  {detail}", flush=True)


def compare(name, a, b, expect_equal=True):
    """a and b are (logits, greedy) of the two sides; a planted fault must differ."""
    error = (a[0] - b[0]).abs().max().item()
    same = sum(x == y for x, y in zip(a[1], b[1], strict=True))
    is_equal = error <= TOLERANCE and a[1] == b[1]
    scale = b[0].abs().max().item()
    record(name, f"logits differ by {error:.1e} of {scale:.1f}, {same} of {len(b[1])} greedy tokens equal", is_equal == expect_equal)


def compare_text(name, text, expected):
    record(name, f"{len(text.encode())} bytes, {'all equal' if text == expected else 'not those of the other side'}", text == expected)


def prompt_ids(vocab_size, length=37):
    return [(7 * i * i + 3 * i + 11) % vocab_size for i in range(length)]


def fixed_values(name, count):
    """Values in [-0.5, 0.5), a function of a tensor's name and the index; test/interop/fixed-weights.ts has the same."""
    with np.errstate(over="ignore"):
        key = np.uint32(0x811C9DC5)
        for byte in name.encode():
            key = (key ^ np.uint32(byte)) * np.uint32(0x01000193)
        h = key + np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9)
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
        h ^= h >> np.uint32(16)
    return (h >> np.uint32(8)) / 2.0**24 - 0.5


def is_gain(name):
    return re.search(r"(norm|ln_\w+)\.weight$", name) is not None


def fixed_model(kind, vocab_size=211):
    """Each kind in the words of transformers; the weights are wide enough that greedy decoding does not sit on ties."""
    if kind.startswith("gpt2"):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, n_positions=128, n_embd=48, n_layer=3, n_head=4))
    else:
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=64,
            intermediate_size=144,
            num_hidden_layers=3,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings="untied" not in kind,
            rope_theta=10000.0,
        )
        if "llama3" in kind:
            scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            config.rope_parameters = {**scaling, "original_max_position_embeddings": 32, "rope_theta": 500000.0}
        if "linear" in kind:
            config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
        if "wide-heads" in kind:
            config.head_dim = 12
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = fixed_values(name, weight.numel())
            values = 1 + 0.25 * values if is_gain(name) else 0.5 * values
            weight.copy_(torch.from_numpy(values.astype(np.float32)).view(weight.shape))
    return model.to(torch.bfloat16) if "bf16" in kind else model


def from_transformers(kind, folder):
    model = fixed_model(kind)
    sharded = {"max_shard_size": "60KB"} if "sharded" in kind else {}
    model.save_pretrained(folder / "theirs", **sharded)
    shards = len(list((folder / "theirs").glob("model-*-of-*.safetensors")))
    if sharded and shards < 2:
        raise RuntimeError(f"{kind}: {shards} shards")
    trainyard("import", "hf", folder / "theirs", "--out", folder / "ours")
    if arguments.plant_fault is not None:
        FAULTS[arguments.plant_fault](folder / "ours")
    ids = prompt_ids(model.config.vocab_size)
    reference = theirs(folder / "theirs", ids)
    compare(f"{kind}: written by transformers, read by us", ours(folder / "theirs", ids), reference)
    compare(f"{kind}: imported by us, read by both", ours(folder / "ours", ids), theirs(folder / "ours", ids))
    compare(f"{kind}: before and after the import", theirs(folder / "ours", ids), reference)
    if kind in recorded:
        # What the tests compare with where this Python is not.
        error = np.abs(np.array(recorded[kind]["logits"]) - reference[0][-1].numpy()).max()
        same = recorded[kind]["greedy"] == reference[1] and error <= TOLERANCE
        record(f"{kind}: recorded for the tests", f"logits differ by {error:.1e}, greedy tokens {'equal' if same else 'DIFFER'}", same)


def edit_weights(folder, pattern, change):
    """Rewrites the matching tensors of a folder; shapes stay, so that no loader notices."""
    changed = 0
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        for name in weights:
            if re.search(pattern, name):
                shape = weights[name].shape
                weights[name] = change(weights[name]).contiguous()
                changed += weights[name].shape == shape
        save_file(weights, path, metadata={"format": "pt"})
    if changed == 0:
        raise RuntimeError(f"{folder}: no tensor to spoil")


def transpose_weight(folder):
    """One square projection the wrong way round, as when GPT-2's [in, out] is taken for [out, in]."""
    edit_weights(folder, r"\.1\.(attn\.c_proj|self_attn\.o_proj)\.weight$", lambda weight: weight.T)


def spoil_rotary_order(folder):
    """Query rows in llama2.c's rotary order, which a Hugging Face folder must not have."""
    edit_weights(folder, r"q_proj\.weight$", lambda q: q.view(8, 2, 4, -1).transpose(1, 2).reshape(q.shape))


FAULTS = {"transposed-weight": transpose_weight, "rotary-order": spoil_rotary_order}


def planted_faults(new_folder):
    """The comparison has to notice what every check of names and shapes passes."""
    for fault, kind in [("rotary-order", "llama"), ("transposed-weight", "llama"), ("transposed-weight", "gpt2")]:
        folder = new_folder(f"{fault}-{kind}")
        fixed_model(kind).save_pretrained(folder / "good")
        fixed_model(kind).save_pretrained(folder / "bad")
        FAULTS[fault](folder / "bad")
        ids = prompt_ids(211)
        compare(f"planted fault, {kind}: {fault}", ours(folder / "bad", ids), theirs(folder / "good", ids), expect_equal=False)


def refused(new_folder):
    """What we do not compute must be refused by name, and leave nothing behind."""
    folder = new_folder("refused")
    untied = GPT2Config(vocab_size=211, n_positions=32, n_embd=48, n_layer=1, n_head=4, tie_word_embeddings=False)
    biased = LlamaConfig(vocab_size=211, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, attention_bias=True)
    for model, key in [(GPT2LMHeadModel(untied), "tie_word_embeddings"), (LlamaForCausalLM(biased), "attention_bias")]:
        model.save_pretrained(folder / key)
        try:
            trainyard("import", "hf", folder / key, "--out", folder / "out")
            said = "it was taken"
        except RuntimeError as error:
            said = str(error)
        name = f"{model.config.model_type} with {key} {getattr(model.config, key)}"
        is_refused = key in said and not (folder / "out").exists()
        record(name, "refused by name, before anything is written" if is_refused else said, is_refused)


def record_models(new_folder):
    """Folders that transformers made, without their weights (a formula), and what transformers says of them."""
    models = {}
    for kind in RECORDED_KINDS:
        folder = new_folder(kind)
        model = fixed_model(kind)
        model.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        logits, greedy = theirs(folder, prompt_ids(model.config.vocab_size))
        models[kind] = {
            "config": json.loads((folder / "config.json").read_text()),
            "dtype": "bf16" if "bf16" in kind else "f32",
            "tensors": {name: list(weights[name].shape) for name in sorted(weights)},
            "logits": [float(f"{value:.7g}") for value in logits[-1].tolist()],
            "greedy": greedy,
        }
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    recording = {"versions": versions, "prompt": prompt_ids(211), "models": models}
    text = json.dumps(recording, indent=1)
    # Numbers of a list on one line.
    text = re.sub(r"\[[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text)
    RECORDED.write_text(text + "\n")
    print(f"{RECORDED.relative_to(ROOT)}: {len(models)} models, {len(text)} bytes, {versions}")


def from_training(family, folder):
    """A model trained here, its tokenizer too, exported and read by transformers."""
    text = sorted((ROOT / "docs").glob("*.md"))
    trainyard("data", "prepare", *text, "--split", "blank-lines", "--train-tokenizer", 400, "--out", folder / "data")
    small = ["--depth", 2, "--model.hidden-size", 64, "--model.num-attention-heads", 4, "--seq-len", 96]
    small += ["--batch-tokens", 1536, "--micro-batch-size", 16, "--max-steps", 60, "--warmup-steps", 5, "--lr", 3e-3]
    grouped = ["--model.num-key-value-heads", 2] if family == "llama" else []
    options = ["--model.family", family, *small, *grouped]
    trainyard("pretrain", "--data", folder / "data", "--out", folder / "run", *options)
    for dtype in ("f32", "bf16"):
        out = folder / f"export-{dtype}"
        trainyard("export", "hf", folder / "run", "--out", out, "--dtype", dtype)
        tokenizer = AutoTokenizer.from_pretrained(out)
        # With the BOS token that training put before every document; the context is 96 tokens.
        ids = [tokenizer.bos_token_id, *tokenizer.encode("The first of them is a kernel", add_special_tokens=False)][:24]
        compare(f"{family}: trained and exported by us, {dtype}", ours(out, ids), theirs(out, ids))
    mine = json.loads(trainyard("tokenizer", "encode", out, "--text", TEXT, "--json"))
    same = tokenizer.encode(TEXT, add_special_tokens=False) == mine and tokenizer.decode(mine) == TEXT
    record(f"{family}: its tokenizer", f"{len(mine)} ids equal, and the text again" if same else f"{mine[:20]} differ", same)


def stories(source, folder):
    model = folder / "stories"
    trainyard("import", "llama2c", source / "stories260K.bin", "--tokenizer", source / "tok512.bin", "--out", model)
    expected = (source / "stories260K-greedy-200-steps.txt").read_text()
    made = trainyard("generate", model, "--temperature", 0, "--max-new-tokens", 200)
    # 200 steps after the start token; generate ends its text with a line feed for the terminal.
    compare_text("stories260K: text of 200 steps, by us", made, expected + "\n")
    again = folder / "again"
    trainyard("export", "hf", model, "--out", again)
    tokenizer = AutoTokenizer.from_pretrained(again)
    logits, made = theirs(again, [tokenizer.bos_token_id], 200)
    compare_text("stories260K: exported, by transformers", tokenizer.decode(made, skip_special_tokens=True), expected)
    compare("stories260K: logits and greedy tokens", ours(again, [1], 200), (logits, made))
    finetuned(model, folder)


def finetuned(model, folder):
    """One epoch on a text of another kind, the project's own documents: its held-out tenth must become likelier."""
    text = sorted((ROOT / "docs").glob("*.md"))
    split = ["--split", "blank-lines", "--validation-fraction", 0.1]
    trainyard("data", "prepare", *text, *split, "--tokenizer", model, "--out", folder / "data")
    small = ["--seq-len", 128, "--batch-tokens", 1024, "--micro-batch-size", 8, "--warmup-steps", 3, "--lr", 1e-3]
    run = folder / "finetuned"
    said = trainyard("pretrain", "--data", folder / "data", "--init-from", model, "--out", run, "--epochs", 1, *small)
    after, before = map(float, re.search(r"validation: loss ([\d.]+) .*before training ([\d.]+)", said).groups())
    record("stories260K: fine-tuned one epoch", f"held-out loss {before} -> {after}", after < before - 0.5)
    trainyard("export", "hf", run, "--out", folder / "export")
    prompt = "The first"
    made = trainyard("generate", folder / "export", "--prompt", prompt, "--temperature", 0, "--max-new-tokens", GREEDY)
    tokenizer = AutoTokenizer.from_pretrained(folder / "export")
    ids = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
    _, theirs_made = theirs(folder / "export", ids)
    text = tokenizer.decode([*ids, *theirs_made], skip_special_tokens=True)
    compare_text("stories260K: fine-tuned, text by transformers", text + "\n", made)
    compare("stories260K: fine-tuned, logits and tokens", ours(folder / "export", ids), theirs(folder / "export", ids))


RECORDED_KINDS = ("gpt2", "gpt2-bf16", "llama", "llama-untied", "llama-bf16", "llama3-rope", "llama-linear-rope", "llama-wide-heads")

parser = argparse.ArgumentParser()
parser.add_argument("--stories", type=pathlib.Path, help="folder with stories260K.bin, tok512.bin and its published text")
parser.add_argument("--record", action="store_true", help="write test/interop/recorded.json and check nothing")
parser.add_argument("--plant-fault", choices=sorted(FAULTS), help="spoil one imported folder and check only that: must fail")
arguments = parser.parse_args()
with tempfile.TemporaryDirectory(prefix="trainyard-transformers-") as temporary:

    def new_folder(name):
        path = pathlib.Path(temporary) / name
        path.mkdir()
        return path

    if arguments.record:
        record_models(new_folder)
        sys.exit(0)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, tolerance {TOLERANCE}")
    recorded = json.loads(RECORDED.read_text())["models"] if RECORDED.exists() else {}
    if arguments.plant_fault is not None:
        from_transformers("llama", new_folder("llama"))
    else:
        for kind in (*RECORDED_KINDS, "llama-sharded"):
            from_transformers(kind, new_folder(kind))
        planted_faults(new_folder)
        refused(new_folder)
        for family in ("llama", "gpt2"):
            from_training(family, new_folder(f"trained-{family}"))
        if arguments.stories is not None:
            stories(arguments.stories, new_folder("stories260K"))
print(f"{sum(rows)} passed, {len(rows) - sum(rows)} failed")
sys.exit(0 if all(rows) else 1)
