"""Checks and times the decoding-step kernels without Trainyard's runtime: nvcc compiles them, ctypes launches them.

The reference is the same step in PyTorch in float64, once without and once with the roundings of a bf16 model.
Usage: decode_step_test.py [check] [time] [tune] [many]
"""
import ctypes, math, os, struct, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
import torch

KERNELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../src/backends/cuda/kernels')
ROOF = 3.0e12
driver = ctypes.CDLL('libcuda.so.1')
folder = tempfile.mkdtemp()
SMS = torch.cuda.get_device_properties(0).multi_processor_count
torch.zeros(1, device='cuda')


def call(name, *args):
    status = getattr(driver, name)(*args)
    if status != 0:
        raise RuntimeError(f'{name} failed: {status}')


class Planned(Exception):
    """Raised in the dry run, which only collects what has to be compiled."""


planned, images = None, {}


def compile_kernel(file, defines, edits=()):
    """Text edits are for probes: what would the time be without ...?"""
    key = (file, tuple(sorted(defines.items())), tuple(edits))
    if planned is not None:
        planned[key] = (file, defines, edits)
        raise Planned
    if key not in images:
        images[key] = compile_now(file, defines, edits)
    if isinstance(images[key], str):
        raise RuntimeError(images[key])
    return images[key]


def compile_now(file, defines, edits):
    text = open(os.path.join(KERNELS, file)).read()
    headers = [open(os.path.join(KERNELS, h)).read() for h in ('prelude.cuh', 'decode-step.cuh', 'hopper.cuh')]
    place = tempfile.mkdtemp(dir=folder)
    for old, new in edits:
        assert old in text + headers[1], old
        text, headers[1] = text.replace(old, new), headers[1].replace(old, new)
    for name, body in ((file, text), ('prelude.cuh', headers[0]), ('decode-step.cuh', headers[1]), ('hopper.cuh', headers[2])):
        open(os.path.join(place, name), 'w').write(body)
    out = os.path.join(place, 'k.cubin')
    result = subprocess.run(['nvcc', '-std=c++17', '-gencode=arch=compute_90a,code=sm_90a', '-cubin', '-o', out, file]
                            + [f'-D{k}={v}' for k, v in defines.items()], capture_output=True, text=True, cwd=place)
    if result.returncode != 0:
        return result.stderr[:500]
    return open(out, 'rb').read()


class Config:
    def __init__(self, hidden=2048, ff=5632, heads=32, kv=4, dim=64, layers=2, vocab=32000):
        self.hidden, self.ff, self.heads, self.kv, self.dim, self.layers, self.vocab = hidden, ff, heads, kv, dim, layers, vocab


class Model:
    def __init__(self, c, seed=0):
        self.c = c
        gen = torch.Generator(device='cuda').manual_seed(seed)
        def w(*shape, std=0.02):
            return (torch.randn(*shape, generator=gen, device='cuda') * std).bfloat16()
        rows = (c.heads + 2 * c.kv) * c.dim
        self.layers = [dict(n1=1 + w(c.hidden, std=0.1), qkv=w(rows, c.hidden), o=w(c.hidden, c.heads * c.dim),
                            n2=1 + w(c.hidden, std=0.1), gu=w(2 * c.ff, c.hidden), down=w(c.hidden, c.ff))
                       for _ in range(c.layers)]
        self.table, self.norm, self.head = w(c.vocab, c.hidden, std=1), 1 + w(c.hidden, std=0.1), w(c.vocab, c.hidden)
        freq = 10000 ** (-torch.arange(0, c.dim, 2, device='cuda').float() / c.dim)
        angle = torch.arange(4096, device='cuda').float()[:, None] * freq
        self.cos, self.sin = angle.cos().contiguous(), angle.sin().contiguous()

    def reference(self, tokens, lengths, caches, rounded):
        """Logits of one step in float64; appends to nothing, returns the new keys and values too."""
        c = self.c
        r = (lambda x: x.bfloat16().double()) if rounded else (lambda x: x)
        norm = lambda x, w: r(x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * w.double())
        B = len(tokens)
        h = self.table[tokens.long()].double()
        cos, sin = self.cos[lengths.long()].double()[:, None], self.sin[lengths.long()].double()[:, None]
        def rope(x):
            a, b = x[..., :c.dim // 2], x[..., c.dim // 2:]
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        new = []
        for l, (keys, values) in zip(self.layers, caches):
            qkv = (norm(h, l['n1']) @ l['qkv'].double().T).view(B, -1, c.dim)
            q, k, v = r(rope(qkv[:, :c.heads])), r(rope(qkv[:, c.heads:c.heads + c.kv])), r(qkv[:, c.heads + c.kv:])
            new.append((k, v))
            mixed = []
            for b in range(B):
                n = int(lengths[b])
                K = torch.cat([keys[b, :n].double(), k[b][None].reshape(1, -1)]).view(n + 1, c.kv, 1, c.dim)
                V = torch.cat([values[b, :n].double(), v[b][None].reshape(1, -1)]).view(n + 1, c.kv, 1, c.dim)
                Q = q[b].view(1, c.kv, c.heads // c.kv, c.dim)
                p = torch.softmax((Q * K).sum(-1) / math.sqrt(c.dim), 0)
                mixed.append((p[..., None] * V).sum(0).reshape(-1))
            h = r(h + r(torch.stack(mixed)) @ l['o'].double().T)
            gu = norm(h, l['n2']) @ l['gu'].double().T
            h = r(h + r(torch.nn.functional.silu(gu[:, :c.ff]) * gu[:, c.ff:]) @ l['down'].double().T)
        return norm(h, self.norm) @ self.head.double().T, new


class Fused:
    """Buffers and launches for `batch` sequences."""

    def __init__(self, model, batch, capacity, ring=10, many=False, ahead=2, edits=(), max_splits=None, team=None, logits=True, extra=None):
        c = self.c = model.c
        self.model, self.batch, self.capacity, self.many = model, batch, capacity, many
        tiles = 1
        while tiles * 8 < batch:
            tiles *= 2
        if max_splits is None:
            max_splits = max(1, min(-(-capacity // 256), 64 // (batch * c.kv))) if batch <= 8 else 1
        items = batch * c.kv * max_splits
        self.team = team or (16 if items <= SMS else 8)
        q = c.heads * c.dim
        defines = dict(TY_DTYPE=1, HIDDEN=c.hidden, FEED_FORWARD=c.ff, HEADS=c.heads, KV_HEADS=c.kv, HEAD_DIM=c.dim, TOKEN_TILES=tiles)
        head_rows = 16 if c.heads // c.kv > 8 else 8
        area = max(16 * head_rows * (c.dim + 2) * 4, 2 * 16 * tiles * 8 * 20 * 4, 8 * (q + 8) * 2 if tiles == 1 else 0)
        if many:
            area = max(16 * head_rows * (c.dim + 2) * 4, tiles * 8 * 1024)
        area = -(-area // 1024) * 1024
        defines.update(RING_ENTRIES=ring, AREA_BYTES=area, TILES_AHEAD=ahead, **(extra or {}))
        self.shared = ring * 512 * 32 + area + (2048 if many else 16 * tiles * 8 * 4) + c.layers * 64
        kernel = 'decode_step_many' if many else 'decode_step_few'
        image = compile_kernel(kernel.replace('_', '-') + '.cu', defines, edits)
        poison = lambda *s, dtype=torch.bfloat16: torch.full(s, math.nan, device='cuda', dtype=dtype)
        self.keys = [poison(batch, capacity, c.kv * c.dim) for _ in range(c.layers)]
        self.values = [poison(batch, capacity, c.kv * c.dim) for _ in range(c.layers)]
        self.tokens = torch.zeros(batch, dtype=torch.int32, device='cuda')
        self.lengths = torch.zeros(batch, dtype=torch.int32, device='cuda')
        self.rows = 64
        self.made = torch.zeros(1, dtype=torch.int32, device='cuda')
        self.history = torch.full((self.rows, batch), -1, dtype=torch.int32, device='cuda')
        self.logits = poison(batch, c.vocab, dtype=torch.float32) if logits else None
        self.scratch = [poison(batch, c.hidden), poison(batch, q), poison(batch, q), poison(batch, c.ff),
                        poison(batch, max_splits, q, dtype=torch.float32), poison(batch, max_splits, c.heads, dtype=torch.float32)]
        self.best = torch.zeros(batch * 1024, dtype=torch.int64, device='cuda')
        self.counters = torch.zeros(64, dtype=torch.int32, device='cuda')
        rows = [((c.heads + 2 * c.kv) * c.dim, c.hidden), (c.hidden, q), (2 * c.ff, c.hidden), (c.hidden, c.ff), (c.vocab, c.hidden)]
        units = max(-(-n // 16) * (k // 512) for n, k in rows) if many else 0
        self.partials = poison(units * 16 * tiles * 8 + 1, dtype=torch.float32)
        self.squares = poison(c.hidden // 16 * tiles * 8, dtype=torch.float32)
        table = []
        for l, k, v in zip(model.layers, self.keys, self.values):
            table += [l[n].data_ptr() for n in ('n1', 'qkv', 'o', 'n2', 'gu', 'down')] + [k.data_ptr(), v.data_ptr()]
        self.table = torch.tensor(table, dtype=torch.int64, device='cuda')
        module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        call('cuModuleLoadData', ctypes.byref(module), image)
        call('cuModuleGetFunction', ctypes.byref(self.function), module, kernel.encode())
        call('cuFuncSetAttribute', self.function, 8, self.shared)
        ptr = lambda x: 0 if x is None else x.data_ptr()
        pointers = [self.table, model.table, model.norm, model.head, model.cos, model.sin, self.tokens, self.lengths, self.history, self.made,
                    self.logits, *self.scratch, self.best, self.counters, self.partials, self.squares]
        self.argument = ctypes.create_string_buffer(
            struct.pack(f'<{len(pointers)}Q7i2f4x', *map(ptr, pointers), batch, capacity, c.layers, c.vocab, self.rows, max_splits,
                        self.team, 1e-5, 1 / math.sqrt(c.dim)))
        self.parameters = (ctypes.c_void_p * 1)(ctypes.addressof(self.argument))

    def step(self):
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        call('cuLaunchKernel', self.function, SMS, 1, 1, 512, 1, 1, self.shared, stream, self.parameters, None)

    def fill(self, lengths, seed=1):
        gen = torch.Generator(device='cuda').manual_seed(seed)
        self.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
        self.tokens.copy_(torch.randint(0, self.c.vocab, (self.batch,), generator=gen, device='cuda'))
        for k, v in zip(self.keys, self.values):
            for x in (k, v):
                x.fill_(math.nan)
                for b, n in enumerate(lengths):
                    x[b, :n] = torch.randn(n, x.shape[2], generator=gen, device='cuda').bfloat16()
        self.counters.zero_()
        self.made.zero_()


def error(a, b):
    return float((a.double() - b).norm() / b.norm())


def check(many=False):
    model = Model(Config())
    cases = [(1, [0], None), (1, [300], None), (1, [700], None), (1, [1023], 1), (3, [5, 255, 600], None), (8, [0, 15, 16, 17, 256, 257, 511, 900], None),
             (8, [1, 2, 3, 400, 500, 600, 700, 1000], 1), (13, [50 * i for i in range(13)], None), (16, [63 * i for i in range(16)], None)]
    if many:
        cases = [(b, [(37 * i) % 1000 for i in range(b)], 1) for b in (9, 16, 17, 32, 33, 61, 64)]
    for batch, lengths, splits in cases:
        try:
            f = Fused(model, batch, 1024, ring=9 if many else 10 if batch <= 8 else 8, many=many, max_splits=splits)
            f.fill(lengths)
            first = f.tokens.clone()
            exact, _ = model.reference(f.tokens, f.lengths, list(zip(f.keys, f.values)), False)
            near, new = model.reference(f.tokens, f.lengths, list(zip(f.keys, f.values)), True)
            f.step()
            torch.cuda.synchronize()
            e = [error(f.logits, exact), error(f.logits, near), error(near, exact)]
            kv = max(error(torch.stack([x[b, n] for b, n in enumerate(lengths)]), y.reshape(batch, -1))
                     for (k, v), keys, values in zip(new, f.keys, f.values) for x, y in ((keys, k), (values, v)))
            tokens = torch.equal(f.tokens.cpu(), f.logits.argmax(-1).int().cpu()) and torch.equal(f.history[0], f.tokens)
            moved = f.lengths.tolist() == [n + 1 for n in lengths] and f.counters[:2].tolist() == [0, 0] and int(f.made) == 1
            again = f.logits.clone()
            f.lengths.copy_(torch.tensor(lengths, dtype=torch.int32)); f.tokens.copy_(first)
            f.step()
            torch.cuda.synchronize()
            same = torch.equal(again, f.logits)
            good = e[1] < 5e-3 and kv < 5e-3 and tokens and moved and same
            print(f'{"ok  " if good else "FAIL"} batch {batch} splits {splits} lengths {lengths[:4]}..: error to f64 {e[0]:.2e} '
                  f'(bf16 emulation {e[2]:.2e}), to the emulation {e[1]:.2e}, new kv {kv:.2e}, greedy {tokens}, state {moved}, same bits {same}', flush=True)
        except Planned:
            pass
        except Exception as x:
            print('FAIL', batch, splits, repr(x)[:400], flush=True)
            if 'failed: 7' in repr(x): raise


def roof_bytes(c, batch, context):
    rows = (c.heads + 2 * c.kv) * c.dim
    weights = 2 * (c.layers * (rows * c.hidden + c.heads * c.dim * c.hidden + 3 * c.ff * c.hidden + 2 * c.hidden) + c.vocab * c.hidden + batch * c.hidden)
    return weights + 2 * 2 * batch * (context + 1) * c.kv * c.dim * c.layers


def measure(f, context, steps=24, repeats=5):
    times = []
    for _ in range(repeats):
        f.lengths.fill_(context - steps // 2)
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        f.step(); f.lengths.fill_(context - steps // 2)
        a.record()
        for _ in range(steps): f.step()
        b.record(); torch.cuda.synchronize()
        times.append(a.elapsed_time(b) / steps)
    return sorted(times)[len(times) // 2]


def timing(model, batch, context, label='', **options):
    try:
        f = Fused(model, batch, context + 64, logits=False, **options)
        f.fill([context] * batch)
        ms = measure(f, context)
        floor = roof_bytes(model.c, batch, context) / ROOF * 1e3
        print(f'B {batch:3d} context {context:5d} {label}: {ms:.4f} ms a step, {batch / ms * 1e3:.0f} tok/s, roof {floor:.4f} ms, {100 * floor / ms:.1f} %', flush=True)
        del f
    except Planned:
        pass
    except Exception as x:
        print('FAIL', batch, context, label, repr(x)[:300], flush=True)


def main(which, model):
    if "check" in which and "many" not in which: check()
    if 'check' in which and 'many' in which: check(many=True)
    if 'time' in which or 'tune' in which:
        model = model or Model(Config(layers=22))
        if 'time' in which and 'many' not in which:
            for batch, context in ((1, 128), (1, 2048), (8, 128), (8, 2048)):
                timing(model, batch, context, ring=8)
        if 'many' in which:
            for batch, context in ((16, 128), (64, 128), (64, 2048)):
                for ahead in (0, 1, 2, 4):
                    timing(model, batch, context, f'many, {ahead} tiles ahead', ring=9, many=True, ahead=ahead)
            no_wait = [('while (loadAcquire(step.counters) < target) {', 'while (false) {')]
            no_sums = [('task < tiles * TOKEN_TILES', 'task < 0')]
            no_slice = [('  loadSlice(step, x, inputsOf(phase), part.slice, norm, panels, sums);\n', '')]
            no_attention = [('attendCache(step, layer, words);', '')]
            for label, edits in (('waiting', no_wait), ('sums', no_sums), ('slices', no_slice), ('attention', no_attention),
                                 ('sums, slices, attention', no_sums + no_slice + no_attention),
                                 ('sums, slices, attention, waiting', no_sums + no_slice + no_attention + no_wait)):
                timing(model, 64, 128, f'many without {label}', ring=9, many=True, edits=edits)
            timing(model, 64, 128, 'many ring 5', ring=5, many=True)
        if 'tune' in which:
            early = [('    prefetchCache(step, layer);\n', '')]
            for batch, context in ((1, 128), (1, 2048), (8, 128), (8, 2048)):
                for ahead in (0, 1, 2, 3):
                    timing(model, batch, context, f'{ahead} tiles ahead', ring=8, ahead=ahead)
                timing(model, batch, context, 'cache not asked for early', ring=8, edits=early)
            timing(model, 1, 128, 'ring 4', ring=4)
            timing(model, 1, 128, 'ring 11', ring=11)
            timing(model, 8, 2048, '1 split', ring=8, max_splits=1)
            timing(model, 1, 128, '256', ring=8, edits=[('.L2::128B', '.L2::256B')])
            timing(model, 1, 128, '256, none ahead', ring=8, ahead=0, edits=[('.L2::128B', '.L2::256B')])
            no_wait = [('while (loadAcquire(step.counters) < target) {', 'while (false) {')]
            timing(model, 1, 128, 'without waiting', ring=8, edits=no_wait)
            timing(model, 8, 2048, 'without attention', ring=8, edits=[('attendCache(step, layer, area);', '')])


if __name__ == '__main__':
    which = sys.argv[1:] or ['check', 'time']
    print(torch.cuda.get_device_name(), SMS, flush=True)
    planned = {}
    main(which, Model(Config()))
    work, planned = planned, None
    started = time.time()
    with ThreadPoolExecutor(os.cpu_count() or 4) as pool:
        for key, image in zip(work, pool.map(lambda item: compile_now(*item), work.values())):
            images[key] = image
    print(f'{len(work)} compilations in {time.time() - started:.1f} s', flush=True)
    main(which, None)
