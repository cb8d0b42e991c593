"""Checks and times the mma.sync attention kernels without Trainyard's runtime: nvcc compiles them, ctypes launches them.

The reference is float64 attention in PyTorch. Usage: attention_mma_test.py [check] [time] [tune] [small]
("small": a few little shapes once, for compute-sanitizer). Not a test of attention-mma.ts.
"""
import ctypes, math, os, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
import torch, torch.nn.functional as F
from torch.nn.attention import sdpa_kernel, SDPBackend

KERNELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../src/backends/cuda/kernels')
PADDED = (16, 32, 64, 96, 128, 192, 256)
DTYPES = {torch.bfloat16: 1, torch.float16: 2}
# As in attention-mma.ts for a card with 227 KiB of shared memory: queries, keys, warps, blocks per multiprocessor.
FORWARD = {16: (128, 64, 4, 2), 32: (128, 64, 4, 2), 64: (128, 64, 4, 2), 96: (128, 64, 4, 2), 128: (128, 64, 4, 2),
           192: (128, 64, 8, 1), 256: (128, 64, 8, 1)}
QUERY = {16: (128, 64, 4, 2), 32: (128, 64, 4, 2), 64: (128, 32, 4, 2), 96: (128, 32, 4, 2), 128: (128, 32, 4, 2),
         192: (128, 32, 8, 1), 256: (128, 32, 8, 1)}
KEY_VALUE = {16: (32, 128, 4, 2), 32: (32, 128, 4, 2), 64: (32, 128, 4, 2), 96: (64, 128, 8, 1), 128: (32, 128, 8, 1),
             192: (32, 128, 8, 1), 256: (32, 128, 8, 1)}
driver = ctypes.CDLL('libcuda.so.1')
folder = tempfile.mkdtemp()
compiled = {}


def driver_call(name, *args):
    status = getattr(driver, name)(*args)
    if status != 0:
        raise RuntimeError(f'{name} failed: {status}')


class Kernel:
    """`defines` and the name of one compilation; `shared` bytes of dynamic shared memory."""

    def __init__(self, file, name, signature, threads, shared, **defines):
        self.file, self.name, self.signature, self.threads, self.shared = file, name, signature, threads, shared
        self.defines = defines
        self.key = (file, tuple(sorted(defines.items())))
        self.function = None

    def compile(self):
        path = os.path.join(folder, f'{abs(hash(self.key))}.cubin')
        command = ['nvcc', '-std=c++17', '-gencode=arch=compute_90a,code=sm_90a', '-cubin', '-Xptxas', '-v', self.file,
                   '-o', path] + [f'-D{key}={value}' for key, value in self.defines.items()]
        result = subprocess.run(command, capture_output=True, text=True, cwd=KERNELS)
        if result.returncode != 0:
            print(f'FAIL: {self.file} {self.defines} does not compile: {result.stderr[:300]}', flush=True)
            return
        compiled[self.key] = path

    def load(self):
        if self.function is not None:
            return
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        driver_call('cuModuleLoadData', ctypes.byref(module), open(compiled[self.key], 'rb').read())
        driver_call('cuModuleGetFunction', ctypes.byref(function), module, self.name.encode())
        driver_call('cuFuncSetAttribute', function, 8, self.shared)
        self.function = function

    def __call__(self, grid, *args):
        self.load()
        types = {'p': ctypes.c_void_p, 'l': ctypes.c_int64, 'i': ctypes.c_int32, 'f': ctypes.c_float}
        assert len(args) == len(self.signature)
        values = [types[s](a) for s, a in zip(self.signature, args)]
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        driver_call('cuLaunchKernel', self.function, *grid, self.threads, 1, 1, self.shared, stream, pointers, None)


def padded_size(head_dim):
    return next(size for size in PADDED if size >= head_dim)


_kernels = {}


def kernels_for(dtype, head_dim, aligned, forward=None, query=None, key_value=None):
    pad = padded_size(head_dim)
    forward, query, key_value = forward or FORWARD[pad], query or QUERY[pad], key_value or KEY_VALUE[pad]
    cache_key = (dtype, pad, aligned, forward, query, key_value)
    if cache_key in _kernels:
        return _kernels[cache_key]
    common = dict(TY_DTYPE=DTYPES[dtype], HEAD_DIM=pad, ALIGNED=int(aligned))

    def blocks(c):
        return dict(BLOCK_QUERIES=c[0], BLOCK_KEYS=c[1], WARPS=c[2], MIN_BLOCKS=c[3])
    row = pad * 2
    made = {
        'forward': Kernel('attention-mma-forward.cu', 'attention_forward', 'ppppppllll' + 'iiiifii', forward[2] * 32,
                          row * (forward[0] + 4 * forward[1]), **common, **blocks(forward)),
        'query': Kernel('attention-mma-backward.cu', 'attention_backward_query', 'ppppppppp' + 'llllll' + 'iiiifii',
                        query[2] * 32, row * (2 * query[0] + 4 * query[1]), **common, **blocks(query), PART=1),
        'key_value': Kernel('attention-mma-backward.cu', 'attention_backward_key_value', 'ppppppppp' + 'llllll' + 'iiiifii',
                            key_value[2] * 32, row * (2 * key_value[1] + 4 * key_value[0]) + 24 * key_value[0], **common,
                            **blocks(key_value), PART=2, COLUMN_SPLITS=2 if pad == 256 else 1),
        'config': (forward, query, key_value), 'pad': pad,
    }
    _kernels[cache_key] = made
    return made


class Problem:
    """Tensors [B, T, columns] (columns of a wider buffer), outputs poisoned with NaN."""

    def __init__(self, B, H, G, Tq, Tk, D, dtype=torch.bfloat16, causal=True, window=0, docs=False, layout='dense', scale=None,
                 seed=0):
        self.B, self.H, self.G, self.Tq, self.Tk, self.D, self.dtype = B, H, G, Tq, Tk, D, dtype
        self.causal, self.window, self.layout = causal, window, layout
        self.scale = 1 / math.sqrt(D) if scale is None else scale
        self.generator = torch.Generator(device='cuda').manual_seed(seed)
        self.buffers = []
        if layout == 'dense':
            self.q, self.k, self.v = self.tensor(Tq, H), self.tensor(Tk, G), self.tensor(Tk, G)
            self.dq, self.dk, self.dv = self.tensor(Tq, H, True), self.tensor(Tk, G, True), self.tensor(Tk, G, True)
        elif layout == 'fused':
            assert Tq == Tk
            self.q, self.k, self.v = self.fused(0)
            self.dq, self.dk, self.dv = self.fused(0, True)
        else:
            extra = 3 if layout == 'odd' else 16
            self.q, self.k, self.v = self.tensor(Tq, H, extra=extra), self.tensor(Tk, G, extra=extra), self.tensor(Tk, G, extra=extra)
            self.dq, self.dk, self.dv = (self.tensor(Tq, H, True, extra), self.tensor(Tk, G, True, extra),
                                         self.tensor(Tk, G, True, extra))
        extra = {'odd': 5, 'wide': 8}.get(layout, 0)
        self.out, self.dout = self.tensor(Tq, H, True, extra), self.tensor(Tq, H, False, extra)
        self.lse = torch.full((B, H, Tq), math.nan, device='cuda')
        self.delta = torch.full((B, H, Tq), math.nan, device='cuda')
        self.docs = None
        if docs:
            starts = torch.rand(B, Tk, generator=self.generator, device='cuda') < (3 / Tk if docs == 'few' else 0.04)
            position = torch.arange(Tk, device='cuda').expand(B, Tk)
            self.docs = torch.where(starts, position, 0).cummax(1).values.to(torch.int32).contiguous()
        aligned = all(t.data_ptr() % 16 == 0 and t.stride(1) % 8 == 0 for t in
                      (self.q, self.k, self.v, self.out, self.dq, self.dk, self.dv, self.dout))
        self.aligned = aligned and D % 8 == 0

    def tensor(self, T, heads, poison=False, extra=0):
        width = heads * self.D
        buffer = torch.randn(self.B, T, width + 2 * extra, generator=self.generator, device='cuda').to(self.dtype)
        if poison:
            buffer.fill_(math.nan)
            self.buffers.append((buffer, extra, width))
        return buffer[:, :, extra:extra + width]

    def fused(self, extra, poison=False):
        widths = [self.H * self.D, self.G * self.D, self.G * self.D]
        buffer = torch.randn(self.B, self.Tq, sum(widths), generator=self.generator, device='cuda').to(self.dtype)
        if poison:
            buffer.fill_(math.nan)
        return torch.split(buffer, widths, dim=2)

    def poison(self):
        for t in (self.out, self.dq, self.dk, self.dv, self.lse, self.delta):
            t.fill_(math.nan)

    def run_forward(self, kernels):
        block = kernels['config'][0][0]
        docs = 0 if self.docs is None else self.docs.data_ptr()
        kernels['forward']((-(-self.Tq // block), self.H, self.B), self.out.data_ptr(), self.lse.data_ptr(),
                           self.q.data_ptr(), self.k.data_ptr(), self.v.data_ptr(), docs,
                           self.out.stride(1), self.q.stride(1), self.k.stride(1), self.v.stride(1),
                           self.G, self.Tq, self.Tk, self.D, self.scale, int(self.causal), self.window)

    def run_query(self, kernels):
        docs = 0 if self.docs is None else self.docs.data_ptr()
        block = kernels['config'][1][0]
        kernels['query']((-(-self.Tq // block), self.H, self.B), self.dq.data_ptr(), self.delta.data_ptr(),
                         self.dout.data_ptr(), self.out.data_ptr(), self.lse.data_ptr(), self.q.data_ptr(), self.k.data_ptr(), self.v.data_ptr(), docs,
                         self.dq.stride(1), self.dout.stride(1), self.out.stride(1), self.q.stride(1), self.k.stride(1),
                         self.v.stride(1), self.G, self.Tq, self.Tk, self.D, self.scale, int(self.causal), self.window)

    def run_key_value(self, kernels):
        docs = 0 if self.docs is None else self.docs.data_ptr()
        block = kernels['config'][2][1]
        splits = 2 if kernels['pad'] == 256 else 1
        kernels['key_value']((-(-self.Tk // block) * splits, self.G, self.B), self.dk.data_ptr(), self.dv.data_ptr(),
                             self.dout.data_ptr(), self.lse.data_ptr(), self.delta.data_ptr(), self.q.data_ptr(),
                             self.k.data_ptr(), self.v.data_ptr(), docs,
                             self.dk.stride(1), self.dv.stride(1), self.dout.stride(1), self.q.stride(1), self.k.stride(1),
                             self.v.stride(1), self.H, self.Tq, self.Tk, self.D, self.scale, int(self.causal), self.window)

    def run_backward(self, kernels):
        self.run_query(kernels)
        self.run_key_value(kernels)

    def results(self):
        return [self.out, self.lse, self.dq, self.dk, self.dv]

    def reference(self):
        def heads(t, count):
            return t.double().reshape(self.B, -1, count, self.D).transpose(1, 2)
        q, k, v = (heads(t, n).detach().requires_grad_() for t, n in ((self.q, self.H), (self.k, self.G), (self.v, self.G)))
        repeat = self.H // self.G
        s = (q @ k.repeat_interleave(repeat, 1).transpose(-1, -2)) * self.scale
        i = torch.arange(self.Tq, device='cuda')[:, None] + self.Tk - self.Tq
        j = torch.arange(self.Tk, device='cuda')[None]
        mask = (j <= i) if self.causal else torch.ones_like(j <= i)
        if self.window:
            mask = mask & (j > i - self.window)
        mask = mask[None].expand(self.B, -1, -1)
        if self.docs is not None:
            mask = mask & (j[None] >= self.docs[:, :, None])
        mask = mask[:, None]
        s = s.masked_fill(~mask, -math.inf)
        lse = torch.logsumexp(s, -1)
        p = torch.exp(s - torch.where(torch.isinf(lse), 0.0, lse)[..., None])
        p = torch.where(mask, p, 0.0)
        out = p @ v.repeat_interleave(repeat, 1)
        out.backward(heads(self.dout, self.H))

        def flat(t):
            return t.transpose(1, 2).reshape(self.B, t.shape[2], -1)
        return [flat(out.detach()), lse.detach(), flat(q.grad), flat(k.grad), flat(v.grad)]


def error(a, b):
    a, b = a.double(), b.double()
    infinite = torch.isinf(b)
    if not torch.equal(torch.isinf(a) & (a < 0), infinite):
        return math.nan
    a, b = a.masked_fill(infinite, 0), b.masked_fill(infinite, 0)
    if torch.isnan(a).any():
        return math.nan
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


BF, HF = torch.bfloat16, torch.float16
CASES = [
    ('causal D64', dict(B=2, H=3, G=3, Tq=300, Tk=300, D=64)),
    ('causal D64 f16', dict(B=2, H=3, G=3, Tq=300, Tk=300, D=64, dtype=HF)),
    ('causal D128 T1000', dict(B=1, H=2, G=2, Tq=1000, Tk=1000, D=128)),
    ('causal D128 f16 fused gqa', dict(B=2, H=8, G=2, Tq=257, Tk=257, D=128, dtype=HF, layout='fused')),
    ('full D64', dict(B=2, H=2, G=2, Tq=333, Tk=333, D=64, causal=False)),
    ('cross full Tq<Tk', dict(B=2, H=4, G=2, Tq=77, Tk=301, D=64, causal=False)),
    ('cross full Tq>Tk', dict(B=2, H=4, G=1, Tq=301, Tk=77, D=128, causal=False)),
    ('causal Tq<Tk', dict(B=2, H=2, G=1, Tq=65, Tk=400, D=64)),
    ('causal Tq>Tk (blind)', dict(B=2, H=2, G=1, Tq=400, Tk=65, D=64)),
    ('causal Tq>Tk D128', dict(B=1, H=2, G=1, Tq=200, Tk=7, D=128)),
    ('one query', dict(B=3, H=4, G=2, Tq=1, Tk=130, D=64)),
    ('one key', dict(B=3, H=4, G=2, Tq=1, Tk=1, D=64)),
    ('window 33', dict(B=2, H=2, G=2, Tq=500, Tk=500, D=64, window=33)),
    ('window 1', dict(B=1, H=2, G=2, Tq=200, Tk=200, D=64, window=1)),
    ('window 200 gqa D128', dict(B=1, H=4, G=2, Tq=700, Tk=700, D=128, window=200)),
    ('window 50 Tq<Tk', dict(B=1, H=2, G=2, Tq=150, Tk=400, D=64, window=50)),
    ('window Tq>Tk', dict(B=1, H=2, G=2, Tq=250, Tk=100, D=64, window=50)),
    ('docs', dict(B=3, H=2, G=1, Tq=600, Tk=600, D=64, docs=True)),
    ('docs few T2000', dict(B=2, H=2, G=1, Tq=2000, Tk=2000, D=64, docs='few')),
    ('docs window D128', dict(B=2, H=2, G=1, Tq=511, Tk=511, D=128, docs=True, window=40)),
    ('fused gqa D64', dict(B=2, H=6, G=2, Tq=200, Tk=200, D=64, layout='fused')),
    ('wide D32', dict(B=2, H=3, G=3, Tq=129, Tk=129, D=32, layout='wide')),
    ('odd slices D64', dict(B=2, H=3, G=1, Tq=131, Tk=131, D=64, layout='odd')),
    ('odd slices D128 window', dict(B=2, H=2, G=1, Tq=131, Tk=131, D=128, layout='odd', window=30)),
    ('odd slices docs f16 D80', dict(B=2, H=2, G=1, Tq=131, Tk=131, D=80, layout='odd', docs=True, dtype=HF)),
    ('D8', dict(B=2, H=2, G=2, Tq=70, Tk=70, D=8)),
    ('D16', dict(B=2, H=2, G=1, Tq=190, Tk=190, D=16)),
    ('D24', dict(B=2, H=2, G=1, Tq=190, Tk=190, D=24)),
    ('D20 general', dict(B=2, H=2, G=1, Tq=90, Tk=90, D=20)),
    ('D5 general', dict(B=2, H=2, G=1, Tq=90, Tk=90, D=5)),
    ('D80', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=80)),
    ('D96', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=96)),
    ('D104', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=104)),
    ('D160', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=160)),
    ('D192 gqa', dict(B=1, H=4, G=1, Tq=290, Tk=290, D=192)),
    ('D200', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=200)),
    ('D256 full', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=256, causal=False)),
    ('D256 window f16', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=256, window=70, dtype=HF)),
    ('D255 general', dict(B=1, H=2, G=1, Tq=90, Tk=90, D=255)),
    ('D177 general', dict(B=1, H=2, G=1, Tq=90, Tk=90, D=177)),
    ('negative scale', dict(B=1, H=2, G=1, Tq=190, Tk=190, D=64, scale=-0.3)),
    ('large scale', dict(B=1, H=2, G=1, Tq=190, Tk=190, D=64, scale=3.0)),
]
SMALL = ['one query', 'one key', 'D16', 'docs', 'window Tq>Tk', 'odd slices D128 window', 'causal Tq>Tk D128', 'D96', 'D256 window f16',
         'D192 gqa', 'D5 general', 'fused gqa D64']
TIMED = [(32, 12, 1024, 64), (4, 16, 4096, 128), (1, 16, 16384, 128)]
TUNE = {
    ('forward', 64): [(128, 64, 4, 2), (128, 128, 4, 2), (128, 32, 4, 2), (64, 64, 4, 3), (128, 64, 8, 2), (64, 64, 2, 4)],
    ('query', 64): [(128, 32, 4, 2), (128, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 4), (128, 64, 8, 2), (64, 32, 2, 4)],
    ('key_value', 64): [(32, 128, 4, 2), (64, 128, 8, 1), (64, 64, 4, 2), (32, 64, 4, 3), (32, 64, 2, 4), (64, 128, 4, 2)],
    ('forward', 128): [(128, 64, 4, 2), (128, 64, 8, 1), (128, 32, 4, 2), (128, 128, 8, 1), (64, 64, 4, 2)],
    ('query', 128): [(128, 32, 4, 2), (128, 64, 8, 1), (128, 32, 8, 1), (64, 32, 4, 2), (64, 64, 4, 2)],
    ('key_value', 128): [(32, 128, 8, 1), (64, 128, 8, 1), (64, 64, 4, 2), (32, 64, 4, 2), (16, 64, 4, 2)],
}


def compile_all(sets):
    unique = {}
    for made in sets:
        for kernel in made.values():
            if isinstance(kernel, Kernel):
                unique[kernel.key] = kernel
    begin = time.time()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda kernel: kernel.compile(), unique.values()))
    print(f'compiled {len(unique)} variants in {time.time() - begin:.1f} s', flush=True)


def check(cases, repeats):
    worst, failures = 0.0, 0
    for name, options in cases:
        try:
            problem = Problem(**options)
            kernels = kernels_for(problem.dtype, problem.D, problem.aligned)
            first = None
            for repeat in range(repeats):
                problem.poison()
                problem.run_forward(kernels)
                problem.run_backward(kernels)
                now = [t.clone() for t in problem.results()]
                if first is None:
                    first = now
                elif not all(torch.equal(a, b) for a, b in zip(first, now)):
                    print(f'FAIL {name}: run {repeat} differs')
                    failures += 1
                    break
            torch.cuda.synchronize()
            errors = [error(a, b) for a, b in zip(first, problem.reference())]
            limit = 1e-2 if problem.dtype == BF else 2e-3
            bad = any(not e < limit for e in errors) or not errors[1] < 1e-5
            for buffer, extra, width in problem.buffers:
                if extra and not (torch.isnan(buffer[:, :, :extra]).all() and torch.isnan(buffer[:, :, extra + width:]).all()):
                    bad = True
                    print('  wrote outside its columns')
            failures += bad
            worst = max(worst, *(e for e in errors if e == e))
            print(f'{"FAIL" if bad else "ok  "} {name:28s} {"fast" if problem.aligned else "gen "} '
                  + ' '.join(f'{label} {e:.1e}' for label, e in zip(('out', 'lse', 'dq', 'dk', 'dv'), errors)), flush=True)
        except Exception as problem_error:
            failures += 1
            print(f'FAIL {name}: {str(problem_error)[:200]}', flush=True)
    print(f'{failures} failures in {len(cases)} cases, worst error {worst:.1e}, {repeats} equal runs each', flush=True)


def median_time(body, count=15, warm=3):
    for _ in range(warm):
        body()
    times = []
    for _ in range(count):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        body()
        end.record()
        times.append((begin, end))
    torch.cuda.synchronize()
    return sorted(a.elapsed_time(b) for a, b in times)[count // 2]


def time_all():
    for B, H, T, D in TIMED:
        problem = Problem(B, H, H, T, T, D)
        kernels = kernels_for(BF, D, True)
        flops = 4 * B * H * T * T * D / 2
        problem.run_forward(kernels)
        problem.run_backward(kernels)
        parts = [median_time(lambda: run(kernels)) for run in
                 (problem.run_forward, problem.run_backward, problem.run_query, problem.run_key_value)]
        print(f'B{B} H{H} T{T} D{D} mma: fwd {parts[0]:.3f} ms {flops / parts[0] / 1e9:.0f} TFLOP/s, bwd {parts[1]:.3f} ms '
              f'{2.5 * flops / parts[1] / 1e9:.0f} TFLOP/s (delta and dq {parts[2]:.3f}, dkdv {parts[3]:.3f})', flush=True)
        del problem
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            try:
                # [B, T, H, D] in memory, as ours.
                q, k, v = (torch.randn(B, T, H, D, device='cuda', dtype=BF).transpose(1, 2).requires_grad_() for _ in range(3))
                with sdpa_kernel(backend):
                    forward = median_time(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
                    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                    grad = torch.randn_like(out)
                    backward = median_time(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True))
                print(f'    {backend.name}: fwd {forward:.3f} ms {flops / forward / 1e9:.0f} TFLOP/s, bwd {backward:.3f} ms '
                      f'{2.5 * flops / backward / 1e9:.0f} TFLOP/s', flush=True)
            except Exception as failure:
                print(f'    {backend.name} failed: {str(failure)[:120]}', flush=True)


def tuned_kernels(part, head_dim, config):
    return kernels_for(BF, head_dim, True, **{part: config})


def tune():
    for (part, D), configs in TUNE.items():
        B, H, T = (32, 12, 1024) if D == 64 else (4, 16, 4096)
        problem = Problem(B, H, H, T, T, D)
        base = kernels_for(BF, D, True)
        problem.run_forward(base)
        problem.run_backward(base)
        flops = 2 * B * H * T * T * D / 2 * {'forward': 2, 'query': 3, 'key_value': 4}[part]
        for config in configs:
            try:
                kernels = tuned_kernels(part, D, config)
                elapsed = median_time(lambda: getattr(problem, f'run_{part}')(kernels), 11, 2)
                print(f'{part} D{D} {config}: {elapsed:.3f} ms, {flops / elapsed / 1e9:.0f} TFLOP/s of its own products', flush=True)
            except Exception as failure:
                print(f'{part} D{D} {config}: {str(failure)[:100]}', flush=True)


def main():
    modes = sys.argv[1:] or ['check', 'time']
    torch.zeros(1, device='cuda')
    torch.backends.cuda.matmul.allow_tf32 = False
    cases = [case for case in CASES if 'small' not in modes or case[0] in SMALL]
    sets = []
    if 'check' in modes or 'small' in modes:
        for _, options in cases:
            problem = Problem(**options)
            sets.append(kernels_for(problem.dtype, problem.D, problem.aligned))
    if 'time' in modes or 'tune' in modes:
        sets += [kernels_for(BF, 64, True), kernels_for(BF, 128, True)]
    if 'tune' in modes:
        sets += [tuned_kernels(part, D, config) for (part, D), configs in TUNE.items() for config in configs]
    compile_all(sets)
    if 'check' in modes:
        check(cases, 20)
    if 'small' in modes:
        check(cases, 1)
    if 'time' in modes:
        time_all()
    if 'tune' in modes:
        tune()


main()
