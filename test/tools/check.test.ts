// npm run check's other parts: line limits, and the GPU kernels through nvcc, on small planted trees.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { countLines, KERNEL_LINE_LIMIT, LINE_LIMIT, lineTable, tooLong } from '../../tools/count-lines.ts'
import { tempTree } from './temp-tree.ts'

const CHECK = fileURLToPath(new URL('../../tools/check.ts', import.meta.url))

function check(root: string, names: readonly string[]): { status: number | null; lines: string[] } {
  const { status, stdout } = spawnSync(process.execPath, [CHECK, ...names], {
    encoding: 'utf8',
    env: { ...process.env, TRAINYARD_CHECK_ROOT: root },
  })
  return { status, lines: stdout.trimEnd().split('\n') }
}

test('a file at its limit passes, one line more does not, prose has none', () => {
  using tree = tempTree({
    'src/a.ts': 'x\n'.repeat(LINE_LIMIT),
    'src/b.ts': 'x\n'.repeat(LINE_LIMIT + 1),
    'src/backends/cpu/native/c.cc': 'x\n'.repeat(KERNEL_LINE_LIMIT),
    'src/backends/cpu/native/d.cc': 'x\n'.repeat(KERNEL_LINE_LIMIT + 1),
    'docs/e.md': 'x\n'.repeat(2000),
    'test/f.json': 'x\n'.repeat(2000),
  })
  const files = countLines(tree.root)
  assert.deepEqual(
    tooLong(files).map(({ file, lines }) => [file, lines]),
    [
      ['src/b.ts', LINE_LIMIT + 1],
      ['src/backends/cpu/native/d.cc', KERNEL_LINE_LIMIT + 1],
    ],
  )
  const table = lineTable(files)
  assert.match(table.at(-1)!, /^all +5 +4802$/)
  assert.ok(
    table.some((line) => /^src\/backends\/cpu +2 +1601 +d\.cc 801$/.test(line)),
    table.join('\n'),
  )
})

test('the checks count what failed and say it', () => {
  using tree = tempTree({ 'src/core/a.ts': "import '../ops/b.ts'\n", 'src/ops/b.ts': 'x\n'.repeat(LINE_LIMIT + 1) })
  const { status, lines } = check(tree.root, ['layers', 'lines', 'nvcc'])
  assert.equal(status, 1)
  assert.equal(lines.at(-1), '0 passed, 2 failed')
  const text = lines.join('\n')
  assert.match(text, /src\/core\/a\.ts:1 imports src\/ops\/b\.ts/)
  assert.match(text, /src\/ops\/b\.ts has 601 lines, 600 are allowed/)
  assert.match(text, /nvcc .* skipped: there are no \.cu files/)
})

test('a check that does not exist is a failure', () => {
  using tree = tempTree({})
  const { status, lines } = check(tree.root, ['tpyes'])
  assert.equal(status, 1)
  assert.match(lines[0]!, /tpyes: no such check; there are types, lint, layers, lines, nvcc/)
})

const hasNvcc = spawnSync('nvcc', ['--version']).status === 0
test('GPU kernels must compile', { skip: hasNvcc ? false : 'there is no nvcc on this machine' }, () => {
  const kernel = (body: string): string => `extern "C" __global__ void twice(float* x) { ${body} }\n`
  using tree = tempTree({
    'src/backends/cuda/good.cu': kernel('x[threadIdx.x] *= 2.0f;'),
    'src/backends/cuda/bad.cu': kernel('y[threadIdx.x] *= 2.0f;'),
  })
  const { status, lines } = check(tree.root, ['nvcc'])
  assert.equal(status, 1)
  assert.match(lines.join('\n'), /bad\.cu\(1\): error: identifier "y" is undefined/)
  assert.doesNotMatch(lines.join('\n'), /good\.cu/)
})

test('kernels whose wgmma products wait for each other are refused, although they compile', {
  skip: hasNvcc ? false : 'there is no nvcc on this machine',
}, () => {
  // The sum is touched while the product may be under way.
  const product = `asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));`
  const kernel = (between: string): string => `
    extern "C" __global__ void products(float* x, unsigned long long a, unsigned long long b) {
      float d[4] = {x[0], x[1], x[2], x[3]};
      asm volatile("wgmma.fence.sync.aligned;");
      ${product}
      ${between}
      ${product}
      asm volatile("wgmma.commit_group.sync.aligned;");
      asm volatile("wgmma.wait_group.sync.aligned 0;");
      x[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
    }\n`
  using tree = tempTree({
    'src/backends/cuda/good-hopper.cu': kernel(''),
    'src/backends/cuda/slow-hopper.cu': kernel('d[0] += 1.f;'),
  })
  const { status, lines } = check(tree.root, ['nvcc'])
  assert.equal(status, 1)
  assert.match(lines.join('\n'), /slow-hopper\.cu\n.*\(C75\d\d\)/)
  assert.doesNotMatch(lines.join('\n'), /good-hopper/)
})
