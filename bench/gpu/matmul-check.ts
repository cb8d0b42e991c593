// Whether matrix products on a CUDA card are right: every option, odd shapes, slices, all types and fp8, against float64 on
// the host.
//     node bench/gpu/matmul-check.ts [cache folder]
import { geluOf, geluSlope } from '../../src/backends/reference/activation.ts'
import type { Dtype } from '../../src/core/dtype.ts'
import type { MatmulOptions } from '../../src/core/kernels.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import {
  elementsOf,
  freeAll,
  fromSmallFloat,
  normals,
  openMatmul,
  poisoned,
  random,
  readWhole,
  runtime,
  tensor,
  writeWhole,
} from './matmul-support.ts'

const matmul = openMatmul()
const LIMITS: Partial<Record<Dtype, number>> = { f32: 2e-6, bf16: 4e-3, f16: 6e-4 }
let failures = 0
const worst = new Map<string, number>()

function check(
  what: string,
  x: Tensor,
  expected: (i: number, j: number) => number,
  beside: Float64Array,
  limit?: number,
): void {
  const actual = readWhole(x)
  let difference = 0
  let norm = 0
  let outside = 0
  const seen = new Uint8Array(actual.length)
  for (let i = 0; i < x.rowCount; i++) {
    for (let j = 0; j < x.columnCount; j++) {
      const at = x.offset + i * x.rowStride + j
      seen[at] = 1
      const e = expected(i, j)
      difference += (actual[at]! - e) ** 2
      norm += e * e
    }
  }
  for (let at = 0; at < actual.length; at++) if (seen[at] === 0 && !Object.is(actual[at], beside[at])) outside++
  const error = Math.sqrt(difference / norm)
  // Of few elements the roundings do not average out.
  const bound = (limit ?? LIMITS[x.dtype]!) * (x.size < 64 ? 2 : 1)
  const group = `${what.split(',')[0]} -> ${x.dtype}`
  worst.set(group, Math.max(worst.get(group) ?? 0, Number.isNaN(error) ? Infinity : error))
  if (!(error < bound) || outside > 0) {
    failures++
    if (failures < 25) console.log(`FAIL ${what}: error ${error.toExponential(2)} (limit ${bound}), ${outside} outside`)
  }
}

interface Case {
  M: number
  N: number
  K: number
  /** Everything is a column slice that starts here. */
  from: number
  dtype: Dtype
  outDtype: Dtype
  transposeA: boolean
  transposeB: boolean
  extras: readonly string[]
}

function runCase(c: Case): void {
  const { M, N, K, from, dtype, outDtype, transposeA, transposeB, extras } = c
  const has = (name: string) => extras.includes(name)
  const sliced = (rows: number, columns: number): [number[], number | undefined, number | undefined] => [
    [rows, columns],
    from === 0 ? undefined : columns + 2 * from,
    from === 0 ? undefined : from,
  ]
  const make = (maker: typeof random, rows: number, columns: number, type: Dtype) => {
    const [shape, of, start] = sliced(rows, columns)
    return maker(shape, type, of, start)
  }
  const a = transposeA ? make(random, K, M, dtype) : make(random, M, K, dtype)
  const b = transposeB ? make(random, N, K, dtype) : make(random, K, N, dtype)
  const accumulate = has('accumulate')
  const out = make(accumulate ? random : poisoned, M, N, outDtype)
  const bias = has('bias') ? random([1, N], outDtype) : has('biasF32') ? random([1, N], 'f32') : undefined
  const residual = has('residual') ? make(random, M, N, outDtype) : undefined
  const kept = has('gelu') ? make(poisoned, M, N, outDtype) : undefined
  const pre = has('geluBackward') ? make(random, M, N, outDtype) : undefined
  const sumOfA = has('sumOfA') ? (accumulate ? random : poisoned)([1, M], 'f32') : undefined
  const sumOfB = has('sumOfB') ? (accumulate ? random : poisoned)([1, N], 'f32') : undefined
  const before = {
    out: readWhole(out),
    kept: kept && readWhole(kept),
    a: sumOfA && readWhole(sumOfA),
    b: sumOfB && readWhole(sumOfB),
  }
  const options: MatmulOptions = {
    transposeA,
    transposeB,
    accumulate,
    ...(bias && { bias }),
    ...(residual && { residual }),
    ...(kept && { gelu: { preActivation: kept } }),
    ...(pre && { geluBackward: pre }),
    ...(sumOfA && { sumOfA }),
    ...(sumOfB && { sumOfB }),
  }
  const what = `${extras.join('+') || 'plain'}, ${dtype}>${outDtype} ${M}x${N}x${K} ${transposeA ? 'T' : 'N'}${transposeB ? 'T' : 'N'} from ${from}`
  try {
    matmul.kernels.matmul(out, a, b, options)
    runtime.synchronize()
  } catch (error) {
    failures++
    if (failures < 25) console.log(`FAIL ${what}: ${(error as Error).message}`)
    freeAll()
    return
  }
  const [A, B] = [elementsOf(a), elementsOf(b)]
  const [biasAt, residualAt, preAt] = [
    bias && elementsOf(bias),
    residual && elementsOf(residual),
    pre && elementsOf(pre),
  ]
  const product = new Float64Array(M * N)
  for (let i = 0; i < M; i++) {
    for (let j = 0; j < N; j++) {
      let sum = 0
      for (let k = 0; k < K; k++) sum += (transposeA ? A(k, i) : A(i, k)) * (transposeB ? B(j, k) : B(k, j))
      if (biasAt) sum += biasAt(0, j)
      if (residualAt) sum += residualAt(i, j)
      if (accumulate) sum += before.out[out.offset + i * out.rowStride + j]!
      product[i * N + j] = sum
    }
  }
  const at = (i: number, j: number) => product[i * N + j]!
  // The library's own derivative of GELU is a little coarser than f32.
  const dgeluLimit = outDtype === 'f32' ? 1e-5 : undefined
  if (kept) {
    check(`${what}, pre`, kept, at, before.kept!)
    check(what, out, (i, j) => geluOf(at(i, j), 'tanh'), before.out)
  } else if (preAt) check(what, out, (i, j) => at(i, j) * geluSlope(preAt(i, j), 'tanh'), before.out, dgeluLimit)
  else check(what, out, at, before.out, outDtype === 'f32' ? 1e-5 : undefined)
  const total = (at: (k: number, j: number) => number, start: Float64Array) => (_: number, j: number) => {
    let sum = accumulate ? start[j]! : 0
    for (let k = 0; k < K; k++) sum += at(k, j)
    return sum
  }
  if (sumOfA) check(`${what}, sums`, sumOfA, total(A, before.a!), before.a!, 1e-5)
  if (sumOfB) check(`${what}, sums`, sumOfB, total(B, before.b!), before.b!, 1e-5)
  freeAll()
}

const PLAIN = [
  [],
  ['accumulate'],
  ['bias'],
  ['residual'],
  ['bias', 'residual'],
  ['biasF32'],
  ['accumulate', 'bias', 'residual'],
]
const SPECIAL = [['gelu'], ['bias', 'gelu'], ['biasF32', 'gelu'], ['geluBackward']]
const SUMS = [['sumOfA'], ['sumOfB'], ['accumulate', 'sumOfA'], ['accumulate', 'sumOfB'], ['sumOfA', 'sumOfB']]
const SIZES = [
  { M: 64, N: 96, K: 80, from: 0 },
  { M: 48, N: 64, K: 32, from: 8 },
  { M: 19, N: 37, K: 23, from: 0 },
  { M: 18, N: 38, K: 26, from: 1 },
  { M: 1, N: 48, K: 64, from: 0 },
  { M: 5, N: 1, K: 7, from: 0 },
]
const started = performance.now()
for (const dtype of ['bf16', 'f16', 'f32'] as const) {
  for (const size of SIZES) {
    for (const transposeA of [false, true]) {
      for (const transposeB of [false, true]) {
        const base = { ...size, dtype, transposeA, transposeB }
        for (const extras of [...PLAIN, ...SPECIAL]) runCase({ ...base, outDtype: dtype, extras })
        for (const extras of [[], ['accumulate']]) runCase({ ...base, outDtype: 'f32', extras })
        if (transposeA && !transposeB) for (const extras of SUMS) runCase({ ...base, outDtype: 'f32', extras })
      }
    }
  }
}
runCase({
  M: 256,
  N: 384,
  K: 512,
  from: 0,
  dtype: 'bf16',
  outDtype: 'bf16',
  transposeA: false,
  transposeB: false,
  extras: ['bias', 'gelu'],
})
runCase({
  M: 256,
  N: 384,
  K: 512,
  from: 0,
  dtype: 'f32',
  outDtype: 'f32',
  transposeA: false,
  transposeB: true,
  extras: [],
})
runCase({
  M: 128,
  N: 256,
  K: 2048,
  from: 0,
  dtype: 'bf16',
  outDtype: 'f32',
  transposeA: true,
  transposeB: false,
  extras: ['accumulate', 'sumOfB'],
})

const FP8 = { e4m3: (raw: number) => fromSmallFloat(raw, 4, 3), e5m2: (raw: number) => fromSmallFloat(raw, 5, 2) }
for (const [formatA, formatB] of [
  ['e4m3', 'e4m3'],
  ['e5m2', 'e4m3'],
  ['e4m3', 'e5m2'],
] as const) {
  for (const outDtype of ['bf16', 'f32'] as const) {
    for (const scaling of ['tensor', 'rows'] as const) {
      for (const fastAccumulation of [true, false]) {
        for (const accumulate of [false, true]) {
          const [M, N, K] = [64, 96, 128]
          const [a, b] = [tensor([M, K], 'u8'), tensor([N, K], 'u8')]
          for (const x of [a, b])
            writeWhole(
              x,
              normals(x.size).map((v, i) => (v < 0 ? 128 : 0) | 0x20 | ((i * 7919) & 0x1f)),
            )
          const count = scaling === 'tensor' ? [1, 1] : [M, N]
          const [scaleA, scaleB] = count.map((n) => random([1, n], 'f32')) as [Tensor, Tensor]
          const out = (accumulate ? random : poisoned)([M, N], outDtype)
          const before = readWhole(out)
          const what = `fp8 ${formatA} ${formatB} ${scaling}, fast ${fastAccumulation}, accumulate ${accumulate}`
          try {
            matmul.fp8(out, a, b, { a: formatA, b: formatB, scaleA, scaleB, fastAccumulation }, { accumulate })
            runtime.synchronize()
            const [A, B, SA, SB] = [elementsOf(a), elementsOf(b), readWhole(scaleA), readWhole(scaleB)]
            const expected = (i: number, j: number) => {
              let sum = 0
              for (let k = 0; k < K; k++) sum += FP8[formatA](A(i, k)) * FP8[formatB](B(j, k))
              return sum * SA[i % SA.length]! * SB[j % SB.length]! + (accumulate ? before[i * N + j]! : 0)
            }
            check(what, out, expected, before, fastAccumulation ? 5e-3 : outDtype === 'f32' ? 5e-4 : undefined)
          } catch (error) {
            failures++
            console.log(`FAIL ${what}: ${(error as Error).message}`)
          }
          freeAll()
        }
      }
    }
  }
}
console.log(
  `checks: ${failures} failures in ${((performance.now() - started) / 1000).toFixed(1)} s; largest error by group:`,
)
console.log([...worst].map(([group, error]) => `${group} ${error.toExponential(1)}`).join('; '))
const kinds = matmul.choices
console.log(
  `${kinds.length} kinds of calls: ${kinds.filter((kind) => kind.route === 'fused').length} in one epilogue, ${kinds.filter((kind) => kind.isPlain).length} by the plain kernel`,
)
const sample = new Map<string, string>()
for (const { call, route, isPlain } of kinds) {
  if (isPlain) sample.set(call.replace(/^\d+x\d+x\d+, /, '').replace(/\/\d+/g, ''), `${call} (${route})`)
}
for (const line of [...sample.values()].slice(0, 12)) console.log(`  plain: ${line}`)
