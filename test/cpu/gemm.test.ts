// The CPU matrix product against float64 loops: every transposition, epilogue, instruction set this machine has and
// thread count, shapes that are multiples of nothing. All memory that must not matter is NaN: outputs before the call,
// and what lies between the rows of column slices.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { buildOptionsFrom, ensureCpuLibrary } from '../../src/backends/cpu/build.ts'
import type { CpuDevice } from '../../src/backends/cpu/device.ts'
import { CpuLibrary, ISAS, type Isa } from '../../src/backends/cpu/library.ts'
import { tensorFrom } from '../../src/core/allocator.ts'
import { DeviceError } from '../../src/core/errors.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { openDevice } from '../../src/open.ts'

const widest = new CpuLibrary(await ensureCpuLibrary(buildOptionsFrom(process.env)))
const isas = ISAS.slice(0, ISAS.indexOf(widest.isa) + 1)
if (isas.length < ISAS.length) console.log(`skipped: this machine has only ${isas.join(', ')}`)

const opened: CpuDevice[] = []
async function open(threads: number, isa: Isa = widest.isa, matmulPrecision: 'f32' | 'bf16' = 'f32') {
  const device = await openDevice('cpu', { threads, isa, matmulPrecision })
  opened.push(device)
  return device
}
after(() => {
  for (const device of opened) device.close()
})

interface Case {
  M: number
  N: number
  K: number
  transposeA: boolean
  transposeB: boolean
  accumulate: boolean
  bias: boolean
  residual: boolean
  /** Columns of other data beside each row of a, b, out and the residual. */
  gap: number
}

const plain: Case = {
  M: 1,
  N: 1,
  K: 1,
  transposeA: false,
  transposeB: false,
  accumulate: false,
  bias: false,
  residual: false,
  gap: 0,
}

/** Numbers in [-1, 1), the same in every run. */
function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.fround(state / 2 ** 31 - 1)
  }
}

/** A row-major matrix with `gap` columns of NaN after the real ones. */
interface Matrix {
  rows: number
  columns: number
  gap: number
  values: Float32Array
}

function matrix(rows: number, columns: number, gap: number, next: () => number): Matrix {
  const stride = columns + gap
  const values = new Float32Array(rows * stride).fill(Number.NaN)
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) values[r * stride + c] = next()
  return { rows, columns, gap, values }
}

function at({ values, columns, gap }: Matrix, r: number, c: number): number {
  return values[r * (columns + gap) + c]!
}

/** The matrix on a device, and the view of its real columns. */
function upload(device: CpuDevice, m: Matrix): { whole: Tensor; view: Tensor } {
  const whole = tensorFrom(device, [m.rows, m.columns + m.gap], m.values)
  return { whole, view: m.gap === 0 ? whole : whole.columns(0, m.columns) }
}

interface Problem {
  c: Case
  a: Matrix
  b: Matrix
  out: Matrix
  bias: Matrix
  residual: Matrix
}

function problem(c: Case, seed: number): Problem {
  const next = generator(seed)
  const poison = c.accumulate ? next : () => Number.NaN
  return {
    c,
    a: c.transposeA ? matrix(c.K, c.M, c.gap, next) : matrix(c.M, c.K, c.gap, next),
    b: c.transposeB ? matrix(c.N, c.K, c.gap, next) : matrix(c.K, c.N, c.gap, next),
    out: matrix(c.M, c.N, c.gap, poison),
    bias: matrix(1, c.N, 0, next),
    residual: matrix(c.M, c.N, 0, next),
  }
}

/** Runs the kernel; all of `out`'s memory, the gap too. */
async function run(device: CpuDevice, { c, a, b, out, bias, residual }: Problem): Promise<Float32Array> {
  const to = upload(device, out)
  device.kernels.matmul(to.view, upload(device, a).view, upload(device, b).view, {
    transposeA: c.transposeA,
    transposeB: c.transposeB,
    accumulate: c.accumulate,
    ...(c.bias ? { bias: upload(device, bias).view.reshape(c.N) } : {}),
    ...(c.residual ? { residual: upload(device, residual).view } : {}),
  })
  return (await device.read(to.whole)) as Float32Array
}

/** The matrix with its values rounded to the nearest bf16, ties to even. */
function roundedToBf16(m: Matrix): Matrix {
  const words = new Uint32Array(m.values.slice().buffer)
  for (let n = 0; n < words.length; n++) words[n] = (words[n]! + 0x7fff + ((words[n]! >>> 16) & 1)) & 0xffff0000
  return { ...m, values: new Float32Array(words.buffer) }
}

/** Compares elements of a result with float64 sums; all of them, or every `step`-th of a large one. */
function check({ c, a, b, out, bias, residual }: Problem, got: Float32Array, label: string, step = 1) {
  const stride = c.N + c.gap
  for (let n = 0; n < c.M * c.N; n += step) {
    const [i, j] = [Math.floor(n / c.N), n % c.N]
    let sum = 0
    let size = 0
    for (let k = 0; k < c.K; k++) {
      const term = (c.transposeA ? at(a, k, i) : at(a, i, k)) * (c.transposeB ? at(b, j, k) : at(b, k, j))
      sum += term
      size += Math.abs(term)
    }
    for (const [isUsed, value] of [
      [c.accumulate, at(out, i, j)],
      [c.bias, at(bias, 0, j)],
      [c.residual, at(residual, i, j)],
    ] as const) {
      if (isUsed) {
        sum += value
        size += Math.abs(value)
      }
    }
    const error = Math.abs(got[i * stride + j]! - sum)
    assert.ok(error <= 1e-6 * size, `${label} ${JSON.stringify(c)}: [${i}, ${j}] is ${got[i * stride + j]}, not ${sum}`)
  }
  for (let i = 0; i < c.M; i++) {
    for (let j = c.N; j < stride; j++) {
      assert.ok(Number.isNaN(got[i * stride + j]!), `${label} ${JSON.stringify(c)}: wrote beside row ${i}`)
    }
  }
}

/** Every transposition and epilogue on small odd shapes, and random ones. */
function smallCases(): Case[] {
  const next = generator(7)
  const pick = (most: number): number => 1 + Math.floor(((next() + 1) / 2) * most)
  const flag = (): boolean => next() > 0
  const cases: Case[] = []
  for (const transposeA of [false, true]) {
    for (const transposeB of [false, true]) {
      const kind = { ...plain, transposeA, transposeB }
      cases.push({ ...kind }, { ...kind, M: 14, N: 32, K: 16 }, { ...kind, M: 29, N: 65, K: 33, gap: 5 })
      cases.push({ ...kind, M: 3, N: 7, K: 19, bias: true, residual: true, accumulate: true, gap: 1 })
      for (const M of [1, 2, 4, 5, 8, 9]) {
        cases.push({ ...kind, M, N: 131, K: 77, bias: true, gap: 3 })
        cases.push({ ...kind, M, N: 17, K: 131, residual: true, accumulate: true })
      }
      for (let n = 0; n < 25; n++) {
        const shape = { M: pick(70), N: pick(100), K: pick(90), gap: pick(9) - 1 }
        cases.push({ ...kind, ...shape, accumulate: flag(), bias: flag(), residual: flag() })
      }
    }
  }
  return cases
}

/** Several slabs of k, several blocks of columns, many tasks. */
const LARGE: Case[] = [
  { ...plain, M: 130, N: 300, K: 1601, transposeB: true, bias: true, residual: true, gap: 7 },
  { ...plain, M: 257, N: 5000, K: 801, accumulate: true, bias: true },
  { ...plain, M: 301, N: 130, K: 2500, transposeA: true, accumulate: true, gap: 3 },
  { ...plain, M: 65, N: 129, K: 768, transposeA: true, transposeB: true, residual: true },
  { ...plain, M: 4, N: 3001, K: 769, transposeB: true, bias: true },
  { ...plain, M: 1, N: 3001, K: 769, residual: true },
]

for (const isa of isas) {
  test(`matmul on ${isa}: small shapes of every kind`, async () => {
    const device = await open(2, isa)
    assert.equal(device.isa, isa)
    for (const [n, c] of smallCases().entries()) {
      const p = problem(c, n)
      check(p, await run(device, p), isa)
    }
  })

  test(`matmul on ${isa}: large shapes, and one to three threads give the same bits`, async () => {
    const devices = [await open(1, isa), await open(2, isa), await open(3, isa)]
    for (const [n, c] of LARGE.entries()) {
      const p = problem(c, 100 + n)
      const [one, ...others] = await Promise.all(devices.map((device) => run(device, p)))
      check(p, one!, isa, 997)
      for (const other of others) assert.deepEqual(new Uint32Array(other.buffer), new Uint32Array(one!.buffer))
    }
  })
}

test('matmul: a NaN of a row of A or of B shows in that row or column of the product and nowhere else', async () => {
  const device = await open(2)
  for (const transposeB of [false, true]) {
    const p = problem({ ...plain, M: 31, N: 70, K: 40, transposeB }, 3)
    p.a.values[5 * 40 + 7] = Number.NaN
    p.b.values[transposeB ? 9 * 40 + 3 : 3 * 70 + 9] = Number.NaN
    const got = await run(device, p)
    for (let n = 0; n < got.length; n++) {
      assert.equal(Number.isNaN(got[n]!), Math.floor(n / 70) === 5 || n % 70 === 9, `element ${n}`)
    }
  }
})

test('matmul in bf16: rounded factors, exact sums', { skip: widest.hasBf16 ? false : 'no AVX512-BF16' }, async () => {
  const [one, two] = [await open(1, 'avx512', 'bf16'), await open(2, 'avx512', 'bf16')]
  // A few rows are multiplied in f32: they wait for memory anyway.
  const rounded = (p: Problem): Problem =>
    p.c.M > 8 || p.c.transposeA ? { ...p, a: roundedToBf16(p.a), b: roundedToBf16(p.b) } : p
  for (const [n, c] of smallCases().entries()) {
    const p = problem(c, n)
    check(rounded(p), await run(two, p), 'bf16')
  }
  for (const [n, c] of LARGE.entries()) {
    const p = problem(c, 100 + n)
    const got = await run(two, p)
    check(rounded(p), got, 'bf16', 997)
    assert.deepEqual(new Uint32Array((await run(one, p)).buffer), new Uint32Array(got.buffer))
  }
})

test('openCpuDevice refuses what it cannot do, in one sentence', async () => {
  await assert.rejects(open(0), (error) => error instanceof DeviceError && /threads .* got 0/.test(error.message))
  await assert.rejects(open(1, 'base', 'bf16'), (error) => error instanceof DeviceError && /bf16/.test(error.message))
  await assert.rejects(ensureCpuLibrary({ compiler: 'no-such-compiler' }), /install one/)
})
