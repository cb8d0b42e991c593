"""Checks and times the Hopper attention forward kernel without Trainyard's runtime: nvcc compiles it, ctypes launches it.

The reference is float64 attention in PyTorch. Usage: attention_hopper_forward_test.py [forms] [check] [repeat] [time]
("forms": single products of every operand form, to localise a mistake). Not a test of attention-hopper-forward.ts.
"""
import ctypes, math, os, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
import torch, torch.nn.functional as F
from torch.nn.attention import sdpa_kernel, SDPBackend

KERNELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../src/backends/cuda/kernels')
DTYPES = {torch.bfloat16: 1, torch.float16: 2}
# As in attention-hopper-forward.ts: keys of a tile, warpgroups that multiply, stages of K and V. MANY_64 is for many tiles.
CONFIG = {32: (128, 3, 2), 64: (128, 2, 3), 96: (128, 2, 2), 128: (128, 2, 2), 160: (112, 2, 2), 192: (112, 2, 2),
          224: (80, 2, 2), 256: (80, 2, 2)}
LONG_64 = (96, 3, 3)
MANY_64 = (64, 4, 4)
BF, HF = torch.bfloat16, torch.float16
driver = ctypes.CDLL('libcuda.so.1')
folder = tempfile.mkdtemp()


def driver_call(name, *args):
    status = getattr(driver, name)(*args)
    if status != 0:
        raise RuntimeError(f'{name} failed: {status}')


def tensor_map(tensor, sizes, strides, box):
    """128-byte swizzled boxes of 16-bit elements; sizes and strides innermost first, strides (in elements) of dims 1 .."""
    memory = ctypes.create_string_buffer(128 + 64)
    address = (ctypes.addressof(memory) + 63) & ~63
    n = len(sizes)
    driver_call('cuTensorMapEncodeTiled', ctypes.c_void_p(address), {BF: 9, HF: 6}[tensor.dtype], n,
                ctypes.c_void_p(tensor.data_ptr()), (ctypes.c_uint64 * n)(*sizes),
                (ctypes.c_uint64 * (n - 1))(*[2 * s for s in strides]), (ctypes.c_uint32 * n)(*box),
                (ctypes.c_uint32 * n)(*[1] * n), 0, 3, 2, 0)
    return memory, address


class Kernel:
    """`defines` and the name of one compilation; `text` stands for a file."""

    def __init__(self, name, signature, file=None, text=None, **defines):
        self.name, self.signature, self.file, self.text, self.defines = name, signature, file, text, defines
        self.function, self.cubin, self.spills = None, None, ''

    def compile(self):
        path = os.path.join(folder, f'{id(self)}.cubin')
        source = self.file
        if self.text is not None:
            source = os.path.join(folder, f'{id(self)}.cu')
            open(source, 'w').write(self.text)
        command = ['nvcc', '-std=c++17', '-gencode=arch=compute_90a,code=sm_90a', '-cubin', '-Xptxas', '-v', '-I' + KERNELS,
                   source, '-o', path] + [f'-D{key}={value}' for key, value in self.defines.items()]
        result = subprocess.run(command, capture_output=True, text=True, cwd=KERNELS)
        if result.returncode != 0:
            print(f'FAIL: {self.file} {self.defines} does not compile: {result.stderr[:400]}', flush=True)
            return
        self.cubin = path
        for line in result.stderr.splitlines():
            if 'C75' in line or ('spill' in line and ' 0 bytes spill stores' not in line):
                self.spills += line.strip()[:100] + '; '

    def launch(self, grid, threads, shared, *args):
        if self.function is None:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            driver_call('cuModuleLoadData', ctypes.byref(module), open(self.cubin, 'rb').read())
            driver_call('cuModuleGetFunction', ctypes.byref(function), module, self.name.encode())
            driver_call('cuFuncSetAttribute', function, 8, shared)
            self.function = function
        types = {'p': ctypes.c_void_p, 'l': ctypes.c_int64, 'i': ctypes.c_int32, 'f': ctypes.c_float}
        assert len(args) == len(self.signature)
        values = [a if s == 'm' else types[s](a) for s, a in zip(self.signature, args)]
        addresses = [v[1] if s == 'm' else ctypes.addressof(v) for s, v in zip(self.signature, values)]
        pointers = (ctypes.c_void_p * len(values))(*addresses)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        driver_call('cuLaunchKernel', self.function, *grid, threads, 1, 1, shared, stream, pointers, None)


def compile_all(kernels):
    begin = time.time()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda kernel: kernel.compile(), kernels))
    print(f'compiled {len(kernels)} variants in {time.time() - begin:.1f} s', flush=True)


# ---- Operand forms ----
# d [64, 128] from a, b of 128 k in panels: one warpgroup, everything through TMA. FORM 0: a and b rows are m and n;
# 1: b rows are k; 2: a rows are k; 3: a in registers (from shared memory by hand), b rows are k.
FORMS_TEXT = r'''
#include "hopper.cuh"
extern "C" __global__ void __launch_bounds__(128) form(
    const __grid_constant__ TensorMap aMap, const __grid_constant__ TensorMap bMap, float* out) {
  extern __shared__ u8 bytes[];
  const u32 base = (sharedAddress(bytes) + 1023) & ~1023u;
  constexpr u32 A_ROWS = FORM == 2 ? 128 : 64;
  const u32 aTile = base, bTile = base + 2 * 128 * 128, barrier = bTile + 2 * 128 * 128;
  if (threadIdx.x == 0) {
    mbarrierInit(barrier, 1);
    mbarrierInitFence();
    mbarrierExpect(barrier, (FORM == 2 ? 1 : 2) * A_ROWS * 128 + 2 * 128 * 128);
    for (int panel = 0; panel < 2; panel++) {
      if (FORM != 2 || panel == 0) copyBox(aTile + panel * A_ROWS * 128, aMap, barrier, 64 * panel, 0, 0, 0);
      copyBox(bTile + panel * 128 * 128, bMap, barrier, 64 * panel, 0, 0, 0);
    }
  }
  __syncthreads();
  mbarrierWait(barrier, 0);
  float d[64];
  const int row = (threadIdx.x >> 5) * 16 + (threadIdx.x >> 2 & 7), t = threadIdx.x & 3;
  wgmmaFence();
#pragma unroll
  for (int k = 0; k < 8; k++) {
    const u64 b = FORM == 0 ? descriptorOfRows(bTile + k / 4 * 128 * 128 + k % 4 * 32)
                            : descriptorOfColumns(bTile + k * 2048, 128 * 128);
    if (FORM == 3) {
      u32 a[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int r = row + 8 * (i & 1), column = 16 * k + 8 * (i >> 1) + 2 * t;
        const u32 address = aTile + column / 64 * A_ROWS * 128 + r * 128 + ((column % 64 / 8 ^ (r & 7)) << 4) + column % 8 * 2;
        asm volatile("ld.shared.b32 %0, [%1];" : "=r"(a[i]) : "r"(address) : "memory");
      }
      wgmmaFence();
      Wgmma<128>::registers<1>(d, a[0], a[1], a[2], a[3], b, k > 0);
    } else {
      const u64 a = FORM == 2 ? descriptorOfColumns(aTile + k * 2048, 128 * 128)
                              : descriptorOfRows(aTile + k / 4 * A_ROWS * 128 + k % 4 * 32);
      Wgmma<128>::shared<FORM == 2, FORM != 0>(d, a, b, k > 0);
    }
  }
  wgmmaCommit();
  wgmmaWait<0>();
  keepAfterWait(d);
#pragma unroll
  for (int i = 0; i < 64; i++) out[(row + 8 * (i / 2 % 2)) * 128 + i / 4 * 8 + 2 * t + i % 2] = d[i];
}
'''
FORMS = [Kernel('form', 'mmp', text=FORMS_TEXT, FORM=form, TY_DTYPE=1) for form in range(4)]


def forms():
    a, b = torch.randn(64, 128, device='cuda').to(BF), torch.randn(128, 128, device='cuda').to(BF)
    for form, kernel in enumerate(FORMS):
        left = a.t().contiguous() if form == 2 else a
        right = b.t().contiguous() if form > 0 else b
        out = torch.full((64, 128), math.nan, device='cuda')
        maps = [tensor_map(x, (x.shape[1], 1, x.shape[0], 1), (x.shape[1], x.shape[1], x.numel()), (64, 1, x.shape[0], 1))
                for x in (left, right)]
        try:
            kernel.launch((1, 1, 1), 128, 68 << 10, *maps, out.data_ptr())
            torch.cuda.synchronize()
            e = error(out, a.double() @ b.double().t())
            print(f'{"ok  " if e < 1e-5 else "FAIL"} operand form {form}: {e:.1e} {kernel.spills}', flush=True)
        except Exception as failure:
            print(f'FAIL operand form {form}: {failure}', flush=True)


# ---- The kernel ----

_kernels = {}


def config_for(heads, queries, keys, head_dim):
    pad = -(-head_dim // 32) * 32
    if pad != 64:
        return CONFIG[pad]
    if keys > 2048:
        return LONG_64
    return MANY_64 if heads * -(-queries // 256) >= 4 * multiprocessors else CONFIG[64]


def configs_to_check(head_dim, keys):
    config = config_for(0, 1, keys, head_dim)
    return [config, MANY_64] if config == CONFIG[64] else [config]


def kernel_for(dtype, head_dim, config):
    pad = -(-head_dim // 32) * 32
    key = (dtype, pad, config)
    if key not in _kernels:
        kernel = Kernel('attention_forward', 'mmmm' + 'pppp' + 'll' + 'iiiiii' + 'fiii', file='attention-hopper-forward.cu',
                        TY_DTYPE=DTYPES[dtype], HEAD_DIM=pad, BLOCK_KEYS=config[0], GROUPS=config[1], STAGES=config[2])
        kernel.config, kernel.pad = config, pad
        _kernels[key] = kernel
    return _kernels[key]


class Problem:
    """Tensors [B, T, columns] (columns of a wider buffer), outputs poisoned with NaN."""

    def __init__(self, B, H, G, Tq, Tk, D, dtype=BF, causal=True, window=0, docs=False, layout='dense', scale=None, seed=0,
                 jump=1):
        self.B, self.H, self.G, self.Tq, self.Tk, self.D, self.dtype = B, H, G, Tq, Tk, D, dtype
        self.causal, self.window, self.layout = causal, window, layout
        self.scale = 1 / math.sqrt(D) if scale is None else scale
        self.generator = torch.Generator(device='cuda').manual_seed(seed)
        if layout == 'fused':
            widths = [H * D, G * D, G * D]
            buffer = torch.randn(B, Tq, sum(widths), generator=self.generator, device='cuda').to(dtype)
            self.q, self.k, self.v = torch.split(buffer, widths, dim=2)
        else:
            extra = 16 if layout == 'wide' else 0
            self.q, self.k, self.v = self.tensor(Tq, H, extra), self.tensor(Tk, G, extra), self.tensor(Tk, G, extra)
        # The first third of the keys, which comes last, is so much larger: scores outgrow the maximum of the first tile.
        self.k[:, :Tk // 3] *= jump
        self.extra = 8 if layout == 'wide' else 0
        self.out = self.tensor(Tq, H, self.extra)
        self.lse = torch.empty((B, H, Tq), device='cuda')
        self.poison()
        self.docs = None
        if docs:
            starts = torch.rand(B, Tk, generator=self.generator, device='cuda') < (3 / Tk if docs == 'few' else 0.04)
            position = torch.arange(Tk, device='cuda').expand(B, Tk)
            self.docs = torch.where(starts, position, 0).cummax(1).values.to(torch.int32).contiguous()
        self.maps = {}

    def tensor(self, T, heads, extra):
        width = heads * self.D
        buffer = torch.randn(self.B, T, width + 2 * extra, generator=self.generator, device='cuda').to(self.dtype)
        return buffer[:, :, extra:extra + width]

    def poison(self):
        base = self.out._base if self.out._base is not None else self.out
        base.fill_(math.nan)
        self.lse.fill_(math.nan)

    def wrote_outside(self):
        if not self.extra:
            return False
        base, width = self.out._base, self.H * self.D
        return not (torch.isnan(base[:, :, :self.extra]).all() and torch.isnan(base[:, :, self.extra + width:]).all())

    def run(self, kernel):
        keys, groups, stages = kernel.config
        panels = -(-kernel.pad // 64)
        if keys not in self.maps:
            def head_map(x, heads, rows):
                return tensor_map(x, (self.D, heads, x.shape[1], self.B), (self.D, x.stride(1), x.stride(0)), (64, 1, rows, 1))
            self.maps[keys] = [head_map(self.q, self.H, 64), head_map(self.k, self.G, keys), head_map(self.v, self.G, keys),
                               head_map(self.out, self.H, 64)]
        shared = 1024 + panels * (groups * 8192 * (2 if kernel.pad <= 128 else 1) + 2 * stages * keys * 128) + 512
        tiles_per_head = -(-self.Tq // (64 * groups))
        tiles = tiles_per_head * self.B * self.H
        heads_per_group = max(1, min(self.B * self.H, (32 << 20) // (4 * self.Tk * kernel.pad) * (self.H // self.G),
                                     round((4 if self.causal or kernel.pad <= 64 else 2) * multiprocessors / tiles_per_head)))
        kernel.launch((min(tiles, multiprocessors), 1, 1), 128 * (groups + 1), shared, *self.maps[keys], self.q.data_ptr(),
                      self.k.data_ptr(), self.lse.data_ptr(), 0 if self.docs is None else self.docs.data_ptr(),
                      self.q.stride(1), self.k.stride(1), self.H, self.G, self.B, self.Tq, self.Tk, self.D, self.scale * math.log2(math.e), int(self.causal), self.window,
                      heads_per_group)

    def reference(self):
        def heads(t, count):
            return t.double().reshape(self.B, -1, count, self.D).transpose(1, 2)
        q, k, v = heads(self.q, self.H), heads(self.k, self.G), heads(self.v, self.G)
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
        s = s.masked_fill(~mask[:, None], -math.inf)
        lse = torch.logsumexp(s, -1)
        p = torch.exp(s - torch.where(torch.isinf(lse), 0.0, lse)[..., None])
        out = (p @ v.repeat_interleave(repeat, 1)).transpose(1, 2).reshape(self.B, self.Tq, -1)
        return out, lse


def error(a, b):
    a, b = a.double(), b.double()
    infinite = torch.isinf(b)
    if not torch.equal(torch.isinf(a) & (a < 0), infinite):
        return math.nan
    a, b = a.masked_fill(infinite, 0), b.masked_fill(infinite, 0)
    if torch.isnan(a).any():
        return math.nan
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


CASES = [
    ('one tile D64', dict(B=1, H=1, G=1, Tq=64, Tk=64, D=64, causal=False)),
    ('one tile D128', dict(B=1, H=1, G=1, Tq=64, Tk=64, D=128, causal=False)),
    ('causal D64', dict(B=2, H=3, G=3, Tq=300, Tk=300, D=64)),
    ('causal D64 T1024', dict(B=4, H=4, G=4, Tq=1024, Tk=1024, D=64)),
    ('causal D64 f16', dict(B=2, H=3, G=3, Tq=300, Tk=300, D=64, dtype=HF)),
    ('causal D128 T1000', dict(B=1, H=2, G=2, Tq=1000, Tk=1000, D=128)),
    ('causal D128 many tiles', dict(B=4, H=16, G=16, Tq=1030, Tk=1030, D=128)),
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
    ('docs few T2100', dict(B=2, H=2, G=1, Tq=2100, Tk=2100, D=64, docs='few')),
    ('docs T2050', dict(B=1, H=2, G=2, Tq=2050, Tk=2050, D=64, docs=True)),
    ('window 300 T2200', dict(B=1, H=4, G=2, Tq=2200, Tk=2200, D=64, window=300)),
    ('causal Tq<Tk long', dict(B=1, H=2, G=1, Tq=300, Tk=2500, D=64, dtype=HF)),
    ('full Tq>Tk long', dict(B=1, H=2, G=1, Tq=2600, Tk=2100, D=64, causal=False)),
    ('docs window D128', dict(B=2, H=2, G=1, Tq=511, Tk=511, D=128, docs=True, window=40)),
    ('fused gqa D64', dict(B=2, H=6, G=2, Tq=200, Tk=200, D=64, layout='fused')),
    ('wide D32', dict(B=2, H=3, G=3, Tq=129, Tk=129, D=32, layout='wide')),
    ('D40', dict(B=2, H=3, G=1, Tq=190, Tk=190, D=40, layout='wide')),
    ('D80', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=80)),
    ('D96', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=96)),
    ('D104', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=104)),
    ('D160', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=160)),
    ('D192 gqa', dict(B=1, H=4, G=1, Tq=290, Tk=290, D=192)),
    ('D200', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=200)),
    ('D256 full', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=256, causal=False)),
    ('D256 window f16', dict(B=1, H=2, G=1, Tq=290, Tk=290, D=256, window=70, dtype=HF)),
    ('jump 6 D64', dict(B=2, H=3, G=3, Tq=700, Tk=700, D=64, jump=6)),
    ('jump 30 D64', dict(B=2, H=3, G=1, Tq=700, Tk=700, D=64, jump=30, layout='fused')),
    ('jump 300 D64', dict(B=2, H=3, G=3, Tq=700, Tk=700, D=64, jump=300)),
    ('jump 300 D64 full T1500', dict(B=1, H=3, G=3, Tq=700, Tk=1500, D=64, jump=300, causal=False)),
    ('jump 300 D64 window docs', dict(B=1, H=2, G=2, Tq=1500, Tk=1500, D=64, jump=300, window=400, docs='few')),
    ('jump 4 D64 f16', dict(B=2, H=3, G=3, Tq=700, Tk=700, D=64, jump=4, dtype=HF)),
    ('jump 30 D72 f16 gqa', dict(B=2, H=4, G=2, Tq=600, Tk=700, D=72, jump=30, dtype=HF)),
    ('jump 30 D128', dict(B=1, H=4, G=2, Tq=700, Tk=700, D=128, jump=30)),
    ('jump 300 D128 f16', dict(B=1, H=2, G=2, Tq=700, Tk=700, D=128, jump=300, dtype=HF)),
    ('jump 300 D256 Tq>Tk', dict(B=1, H=2, G=1, Tq=700, Tk=500, D=256, jump=300)),
    ('large scale', dict(B=1, H=2, G=1, Tq=190, Tk=190, D=64, scale=3.0)),
    ('small scale', dict(B=1, H=2, G=1, Tq=190, Tk=190, D=128, scale=1e-20)),
]
TIMED = [(32, 12, 1024, 64), (4, 16, 4096, 128), (1, 16, 16384, 128), (4, 16, 4096, 64), (4, 8, 4096, 96), (4, 8, 4096, 256)]


def check(cases, repeats):
    worst, failures = 0.0, 0
    for name, options in cases:
        try:
            problem = Problem(**options)
            expected = problem.reference()
            for config in configs_to_check(problem.D, problem.Tk):
                kernel = kernel_for(problem.dtype, problem.D, config)
                first = None
                for repeat in range(repeats):
                    problem.poison()
                    problem.run(kernel)
                    now = [problem.out.clone(), problem.lse.clone()]
                    if first is None:
                        first = now
                        torch.cuda.synchronize()
                    elif not all(torch.equal(a, b) for a, b in zip(first, now)):
                        print(f'FAIL {name} {config}: run {repeat} differs', flush=True)
                        failures += 1
                        break
                errors = [error(a, b) for a, b in zip(first, expected)]
                bad = not errors[0] < (5e-3 if problem.dtype == BF else 7e-4) or not errors[1] < 1e-5
                if problem.wrote_outside():
                    bad = True
                    print('  wrote outside its columns')
                failures += bad
                worst = max(worst, *(e for e in errors if e == e))
                print(f'{"FAIL" if bad else "ok  "} {name:28s} {config} out {errors[0]:.1e} lse {errors[1]:.1e} {kernel.spills}', flush=True)
                if bad and errors[0] != errors[0]:
                    print(f'     {torch.isnan(problem.out).sum().item()} of {problem.out.numel()} outputs are NaN', flush=True)
        except Exception as failure:
            failures += 1
            print(f'FAIL {name}: {str(failure)[:200]}', flush=True)
            if 'CUDA error' in str(failure) or 'failed: 7' in str(failure):
                print('the context is lost', flush=True)
                os._exit(1)
    print(f'{failures} failures in {len(cases)} cases, worst error {worst:.1e}, {repeats} equal runs each', flush=True)


def median_time(body, count=7, each=5):
    """Milliseconds on the card: graphs of `each` launches."""
    for _ in range(2):
        body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(each):
            body()
    graph.replay()
    times = []
    for _ in range(count):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        times.append((begin, end))
    torch.cuda.synchronize()
    return sorted(a.elapsed_time(b) / each for a, b in times)[count // 2]


def time_all():
    for B, H, T, D in TIMED:
        flops = 4 * B * H * T * T * D / 2
        problem = Problem(B, H, H, T, T, D)
        views = [t.view(B, T, H, D).transpose(1, 2) for t in (problem.q, problem.k, problem.v)]
        expected = None
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            try:
                with sdpa_kernel(backend):
                    expected = F.scaled_dot_product_attention(*views, is_causal=True)
                    elapsed = median_time(lambda: F.scaled_dot_product_attention(*views, is_causal=True))
                print(f'B{B} H{H} T{T} D{D} {backend.name}: {elapsed:.4f} ms {flops / elapsed / 1e9:.0f} TFLOP/s', flush=True)
            except Exception as failure:
                print(f'    {backend.name} failed: {str(failure)[:120]}', flush=True)
        try:
            kernel = kernel_for(BF, D, config_for(B * H, T, T, D))
            problem.poison()
            problem.run(kernel)
            e = error(problem.out.view(B, T, H, D), expected.transpose(1, 2))
            elapsed = median_time(lambda: problem.run(kernel))
            print(f'{"    " if e < 5e-3 else "FAIL"} ours {kernel.config}: {elapsed:.4f} ms {flops / elapsed / 1e9:.0f} TFLOP/s '
                  f'(from SDPA {e:.1e})', flush=True)
        except Exception as failure:
            print(f'FAIL: {str(failure)[:200]}', flush=True)


multiprocessors = 0


def main():
    global multiprocessors
    modes = sys.argv[1:] or ['forms', 'check', 'time']
    torch.zeros(1, device='cuda')
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    torch.backends.cuda.matmul.allow_tf32 = False
    if 'check' in modes or 'repeat' in modes:
        for _, options in CASES:
            for config in configs_to_check(options['D'], options['Tk']):
                kernel_for(options.get('dtype', BF), options['D'], config)
    if 'time' in modes:
        for B, H, T, D in TIMED:
            kernel_for(BF, D, config_for(B * H, T, T, D))
    compile_all(FORMS + list(_kernels.values()))
    if 'forms' in modes:
        forms()
    if 'check' in modes:
        check(CASES, 3)
    if 'time' in modes:
        time_all()
    if 'repeat' in modes:
        check([case for case in CASES if case[0] in ('causal D64 T1024', 'causal D128 many tiles', 'docs few T2100', 'D192 gqa', 'jump 30 D64', 'jump 30 D128')], 200)


if __name__ == '__main__':
    main()
