// How fast matrix products are on a CUDA card at the shapes of GPT-2 124M and of a Llama of 1.26B: the library's favourite
// algorithm, and the best of all that the search tries. Then whether large ones are right, give the same bits twice, and
// can be recorded.
//     node bench/gpu/matmul.ts [cache folder]
import { geluOf, geluSlope } from '../../src/backends/reference/activation.ts'
import type { Dtype } from '../../src/core/dtype.ts'
import type { MatmulOptions } from '../../src/core/kernels.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import {
  areSame,
  elementsOf,
  fillWithNoise,
  freeAll,
  lt,
  openMatmul,
  poisoned,
  random,
  runtime,
  tensor,
  tensorAt,
} from './matmul-support.ts'

const matmul = openMatmul()
console.log(`${runtime.card.name}, cuBLASLt ${lt.version}`)

// ---- fast?

/** Larger than any tensor below: calls that only tell the search what there is to time run in it. */
const block = runtime.allocate(6 * 2 ** 30)
const names = new Map<string, string>()

function row(
  name: string,
  [M, N, K]: readonly [number, number, number],
  layout: string,
  extras: readonly string[] = [],
  outDtype: Dtype = 'bf16',
): void {
  const has = (extra: string) => extras.includes(extra)
  const place = (rows: number, columns: number, dtype: Dtype) => tensorAt(block, [rows, columns], dtype)
  const [transposeA, transposeB] = [layout[0] === 'T', layout[1] === 'T']
  const options: MatmulOptions = {
    transposeA,
    transposeB,
    accumulate: has('accumulate'),
    ...(has('bias') && { bias: place(1, N, outDtype) }),
    ...(has('residual') && { residual: place(M, N, outDtype) }),
    ...(has('gelu') && { gelu: { preActivation: place(M, N, outDtype) } }),
    ...(has('geluBackward') && { geluBackward: place(M, N, outDtype) }),
    ...(has('sumOfB') && { sumOfB: place(1, N, 'f32') }),
  }
  const a = transposeA ? place(K, M, 'bf16') : place(M, K, 'bf16')
  const b = transposeB ? place(N, K, 'bf16') : place(K, N, 'bf16')
  try {
    matmul.kernels.matmul(place(M, N, outDtype), a, b, options)
    names.set(matmul.choices.at(-1)!.call, `${name} ${extras.join('+')}`)
  } catch (error) {
    console.log(`FAIL ${name} ${extras.join('+')}: ${(error as Error).message}`)
  }
}

function search(): void {
  const rate = (flops: number, microseconds: number) => (flops / microseconds / 1e6).toFixed(0).padStart(5)
  runtime.synchronize()
  const start = performance.now()
  const results = matmul.tune()
  for (const { call, flops, first, best, routes, candidates } of results) {
    const byRoute = Object.entries(routes).map(([name, us]) => `${name} ${us.toFixed(0)} us`)
    const name = `${(names.get(call) ?? '').padEnd(32)} ${call.split(',')[0]!.padEnd(16)}`
    console.log(`${rate(flops, first)} ${rate(flops, best)}  ${name} of ${candidates}: ${byRoute.join(', ')}`)
  }
  console.log(`searched ${results.length} in ${((performance.now() - start) / 1000).toFixed(1)} s`)
}

console.log('TFLOP/s of the favourite and of the best, microseconds by route')
for (const M of [32768, 65536]) {
  row('gpt2 qkv', [M, 2304, 768], 'NN', ['bias'])
  row('gpt2 proj', [M, 768, 768], 'NN', ['bias', 'residual'])
  row('gpt2 fc', [M, 3072, 768], 'NN', ['bias'])
  row('gpt2 fc', [M, 3072, 768], 'NN', ['bias', 'gelu'])
  row('gpt2 out', [M, 768, 3072], 'NN', ['bias'])
  row('gpt2 out', [M, 768, 3072], 'NN', ['bias', 'residual'])
  row('gpt2 d qkv', [M, 768, 2304], 'NT')
  row('gpt2 d proj', [M, 768, 768], 'NT')
  row('gpt2 d fc', [M, 768, 3072], 'NT')
  row('gpt2 d out', [M, 3072, 768], 'NT')
  row('gpt2 d out', [M, 3072, 768], 'NT', ['geluBackward'])
  for (const [name, N, K] of [
    ['qkv', 2304, 768],
    ['proj', 768, 768],
    ['fc', 3072, 768],
    ['out', 768, 3072],
  ] as const) {
    row(`gpt2 w ${name}`, [K, N, M], 'TN', ['accumulate', 'sumOfB'], 'f32')
    row(`gpt2 w ${name}`, [K, N, M], 'TN', ['accumulate'], 'f32')
  }
  search()
}
for (const M of [8192, 16384]) {
  row('gpt2 head', [M, 50304, 768], 'NT')
  row('gpt2 d head', [M, 768, 50304], 'NN')
  row('gpt2 w head', [50304, 768, M], 'TN', ['accumulate'], 'f32')
  for (const [name, N, K] of [
    ['square', 2048, 2048],
    ['gate up', 11264, 2048],
    ['down', 2048, 5632],
    ['head', 32000, 2048],
  ] as const) {
    row(`llama ${name}`, [M, N, K], 'NT')
    if (name === 'square' || name === 'down') row(`llama ${name}`, [M, N, K], 'NT', ['residual'])
    row(`llama d ${name}`, [M, K, N], 'NN')
    row(`llama w ${name}`, [N, K, M], 'TN', ['accumulate'], 'f32')
  }
  search()
}

for (const [M, N, K] of [
  [65536, 2304, 768],
  [65536, 3072, 768],
  [65536, 768, 3072],
  [16384, 50304, 768],
  [16384, 11264, 2048],
  [16384, 2048, 5632],
] as const) {
  for (const [a, scaling, fastAccumulation] of [
    ['e4m3', 'tensor', true],
    ['e4m3', 'tensor', false],
    ['e4m3', 'rows', true],
    ['e5m2', 'tensor', false],
  ] as const) {
    const [scaleA, scaleB] = (scaling === 'tensor' ? [1, 1] : [M, N]).map((count) => tensorAt(block, [1, count], 'f32'))
    const settings = { a, b: 'e4m3', scaleA: scaleA!, scaleB: scaleB!, fastAccumulation } as const
    const name = `fp8 ${a} ${scaling} ${fastAccumulation ? 'fast' : 'exact'}`
    try {
      matmul.fp8(
        tensorAt(block, [M, N], 'bf16'),
        tensorAt(block, [M, K], 'u8'),
        tensorAt(block, [N, K], 'u8'),
        settings,
      )
      names.set(matmul.choices.at(-1)!.call, name)
    } catch (error) {
      console.log(`FAIL ${name} ${M}x${N}x${K}: ${(error as Error).message}`)
    }
  }
}
search()
runtime.free(block)

// ---- large ones right?

function checkLarge(
  name: string,
  [M, N, K]: readonly [number, number, number],
  layout: string,
  extras: readonly string[],
  outDtype: Dtype,
): void {
  const has = (extra: string) => extras.includes(extra)
  const [transposeA, transposeB] = [layout[0] === 'T', layout[1] === 'T']
  const noisy = (rows: number, columns: number, dtype: Dtype): Tensor => {
    const x = tensor([rows, columns], dtype)
    fillWithNoise(x, rows + 3 * columns)
    return x
  }
  const a = transposeA ? noisy(K, M, 'bf16') : noisy(M, K, 'bf16')
  const b = transposeB ? noisy(N, K, 'bf16') : noisy(K, N, 'bf16')
  const bias = has('bias') ? noisy(1, N, outDtype) : undefined
  const residual = has('residual') ? noisy(M, N, outDtype) : undefined
  const pre = has('gelu') || has('geluBackward') ? noisy(M, N, outDtype) : undefined
  const preAt = has('geluBackward') ? elementsOf(pre!) : undefined
  const outs = [noisy(M, N, outDtype), noisy(M, N, outDtype)] as const
  const sums = outs.map(() => noisy(1, N, 'f32'))
  const [before, sumsBefore] = [elementsOf(outs[0]), elementsOf(sums[0]!)]
  for (const [i, out] of outs.entries()) {
    matmul.kernels.matmul(out, a, b, {
      transposeA,
      transposeB,
      accumulate: has('accumulate'),
      ...(bias && { bias }),
      ...(residual && { residual }),
      ...(has('gelu') && { gelu: { preActivation: pre! } }),
      ...(has('geluBackward') && { geluBackward: pre! }),
      ...(has('sumOfB') && { sumOfB: sums[i]! }),
    })
  }
  const [A, B, actual] = [elementsOf(a), elementsOf(b), elementsOf(outs[0])]
  const [biasAt, residualAt] = [bias && elementsOf(bias), residual && elementsOf(residual)]
  let [difference, norm] = [0, 0]
  for (let sample = 0; sample < 400; sample++) {
    const [i, j] = [(sample * 7919 * 31) % M, (sample * 104729) % N]
    let sum = has('accumulate') ? before(i, j) : 0
    for (let k = 0; k < K; k++) sum += (transposeA ? A(k, i) : A(i, k)) * (transposeB ? B(j, k) : B(k, j))
    if (biasAt) sum += biasAt(0, j)
    if (residualAt) sum += residualAt(i, j)
    if (has('gelu')) sum = geluOf(sum, 'tanh')
    if (preAt) sum *= geluSlope(preAt(i, j), 'tanh')
    difference += (actual(i, j) - sum) ** 2
    norm += sum ** 2
  }
  const notes = [`error ${Math.sqrt(difference / norm).toExponential(1)}`]
  let isGood = Math.sqrt(difference / norm) < (outDtype === 'f32' ? 2e-5 : 4e-3)
  if (has('sumOfB')) {
    const at = elementsOf(sums[0]!)
    let worst = 0
    for (let j = 0; j < N; j += 97) {
      let sum = sumsBefore(0, j)
      for (let k = 0; k < K; k++) sum += B(k, j)
      worst = Math.max(worst, Math.abs(at(0, j) - sum) / Math.sqrt(K))
    }
    isGood &&= worst < 2e-5 && areSame(sums[0]!, sums[1]!)
    notes.push(`sums within ${worst.toExponential(1)} sqrt(K)`)
  }
  const isSame = areSame(outs[0], outs[1])
  notes.push(isSame ? 'same bits' : 'OTHER BITS')
  console.log(`${isGood && isSame ? 'ok' : 'FAIL'} ${name} ${extras.join('+')} ${M}x${N}x${K}: ${notes.join(', ')}`)
  freeAll()
}
checkLarge('fc', [32768, 3072, 768], 'NN', ['bias', 'gelu'], 'bf16')
checkLarge('out', [32768, 768, 3072], 'NN', ['bias', 'residual'], 'bf16')
checkLarge('d out', [32768, 3072, 768], 'NT', ['geluBackward'], 'bf16')
checkLarge('w fc', [768, 3072, 32768], 'TN', ['accumulate', 'sumOfB'], 'f32')
checkLarge('w proj', [768, 768, 32768], 'TN', ['accumulate'], 'f32')
checkLarge('d head', [8192, 768, 50304], 'NN', [], 'bf16')

// ---- recorded, kept, and what a call costs

{
  const [a, b, bias] = [random([64, 64], 'bf16'), random([64, 64], 'bf16'), random([1, 64], 'bf16')]
  const [one, other] = [poisoned([64, 64], 'bf16'), poisoned([64, 64], 'bf16')]
  const run = (out: Tensor, options: MatmulOptions = { bias }) => matmul.kernels.matmul(out, a, b, options)
  run(one)
  runtime.replay(runtime.capture(() => run(other)))
  console.log(areSame(one, other) ? 'ok recorded and replayed: same bits' : 'FAIL recorded and replayed: other bits')
  for (const [name, options] of [
    ['plain', {}],
    ['with bias', { bias }],
  ] as const) {
    const times = Array.from({ length: 30 }, () => {
      runtime.synchronize()
      const start = performance.now()
      for (let i = 0; i < 200; i++) run(one, options)
      return (performance.now() - start) * 5
    }).sort((x, y) => x - y)
    console.log(`a call ${name} takes ${times[15]!.toFixed(2)} us to issue`)
  }
  matmul.tune()
  run(one)
  const second = openMatmul()
  second.kernels.matmul(other, a, b, { bias })
  const isKept = second.untuned === 0 && areSame(one, other)
  console.log(`${isKept ? 'ok' : 'FAIL'} from the cache: ${second.untuned} untuned, fingerprint ${second.fingerprint}`)
  freeAll()
}
