// The same bits in every run: each kernel whose sums could depend on the order of arrival is run many times on the same
// inputs, into poisoned outputs, and every run is compared with the first, byte by byte.
//   TRAINYARD_TEST_REPEATS    runs of each; default 1000
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { standaloneTensor, tensorFrom } from '../../src/core/allocator.ts'
import type { Dtype } from '../../src/core/dtype.ts'
import { SCALAR } from '../../src/core/kernels.ts'
import { randomKey } from '../../src/core/random.ts'
import { type Storage, Tensor } from '../../src/core/tensor.ts'
import { TEST_SEED } from '../ops/inputs.ts'
import { type Gpu, openGpu } from './gpu.ts'

const REPEATS = Number(process.env.TRAINYARD_TEST_REPEATS ?? 1000)

/** Outputs of a kernel in one block, which is read at once, and its call. */
interface Repeated {
  readonly outputs: Storage
  run(): void
}

/** Tensors of random numbers, and outputs that lie side by side. */
class Bench {
  readonly device: Gpu
  #streams = 0

  constructor(device: Gpu) {
    this.device = device
  }

  random(...shape: number[]): Tensor {
    const tensor = standaloneTensor(this.device, shape)
    this.device.kernels.randomNormal(tensor, randomKey(TEST_SEED, `determinism ${this.#streams++}`), 0, 0, 1)
    return tensor
  }

  integers(count: number, below: number): Tensor {
    return tensorFrom(
      this.device,
      [count],
      Int32Array.from({ length: count }, (_, i) => (i * i * 31 + i) % below),
      'i32',
    )
  }

  outputs(specs: readonly (readonly [Dtype, ...number[]])[]): { storage: Storage; tensors: Tensor[] } {
    let bytes = 0
    const places = specs.map(([dtype, ...shape]) => {
      const at = bytes
      const itemBytes = this.device.itemBytes(dtype)
      bytes += Math.ceil((shape.reduce((size, n) => size * n, 1) * itemBytes) / 256) * 256
      return { dtype, shape, offset: at / itemBytes }
    })
    const { storage } = standaloneTensor(this.device, [bytes], 'u8')
    return { storage, tensors: places.map(({ dtype, shape, offset }) => new Tensor(shape, dtype, storage, { offset })) }
  }
}

function attention(
  bench: Bench,
  shape: { B: number; T: number; H: number; G: number; K: number; window: number },
): Repeated {
  const { B, T, H, G, K, window } = shape
  const float = bench.device.floatDtype
  const qkv = bench.random(B, T, (H + 2 * G) * K)
  const [q, k, v] = [qkv.columns(0, H * K), qkv.columns(H * K, G * K), qkv.columns((H + G) * K, G * K)]
  const dOut = bench.random(B, T, H * K)
  const { storage, tensors } = bench.outputs([
    [float, B, T, H * K],
    ['f32', B, H, T],
    [float, B, T, H * K],
    [float, B, T, G * K],
    [float, B, T, G * K],
    ['f32', B, H, T],
  ])
  const [out, lse, dq, dk, dv, delta] = tensors as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
  const options = { numHeads: H, numKeyValueHeads: G, headDim: K, scale: K ** -0.5, isCausal: true, window }
  const { kernels } = bench.device
  return {
    outputs: storage,
    run() {
      kernels.attention(out, lse, q, k, v, options)
      kernels.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options)
    },
  }
}

function normBackwards(bench: Bench): Repeated {
  const [rows, width] = [3001, 768]
  const float = bench.device.floatDtype
  const [x, dOut, weight, bias] = [
    bench.random(rows, width),
    bench.random(rows, width),
    bench.random(width),
    bench.random(width),
  ]
  const { storage, tensors } = bench.outputs([
    [float, rows, width],
    ['f32', rows],
    [float, rows, width],
    ['f32', width],
    [float, rows, width],
    ['f32', rows],
    ['f32', rows],
    [float, rows, width],
    ['f32', width],
    ['f32', width],
  ])
  const [y, rstd, dx, dWeight, y2, mean2, rstd2, dx2, dWeight2, dBias2] = tensors as [
    ...[Tensor, Tensor, Tensor, Tensor, Tensor],
    ...[Tensor, Tensor, Tensor, Tensor, Tensor],
  ]
  const { kernels } = bench.device
  return {
    outputs: storage,
    run() {
      kernels.rmsnorm(y, rstd, x, weight, 1e-5)
      kernels.rmsnormBackward(dx, dWeight, dOut, x, weight, rstd, { dx: false, dWeight: false })
      kernels.layernorm(y2, mean2, rstd2, x, weight, bias, 1e-5)
      const overwrite = { dx: false, dWeight: false, dBias: false }
      kernels.layernormBackward(dx2, dWeight2, dBias2, dOut, x, weight, mean2, rstd2, overwrite)
    },
  }
}

function embeddingBackward(bench: Bench): Repeated {
  const [count, vocabSize, width] = [5003, 701, 256]
  const dOut = bench.random(count, width)
  const ids = bench.integers(count, vocabSize)
  const { storage, tensors } = bench.outputs([['f32', vocabSize, width]])
  const dTable = tensors[0]!
  const { kernels } = bench.device
  return {
    outputs: storage,
    run() {
      kernels.fill(dTable, 0)
      kernels.embeddingBackward(dTable, dOut, ids)
    },
  }
}

/** The long sum of a weight gradient, which a library likes to split. */
function weightGradient(bench: Bench): Repeated {
  const [rows, inputs, outputs] = [8200, 520, 264]
  const [x, dOut] = [bench.random(rows, inputs), bench.random(rows, outputs)]
  const { storage, tensors } = bench.outputs([
    ['f32', outputs, inputs],
    ['f32', outputs],
  ])
  const [dWeight, dBias] = tensors as [Tensor, Tensor]
  const { kernels } = bench.device
  return {
    outputs: storage,
    run() {
      kernels.matmul(dWeight, dOut, x, { transposeA: true })
      kernels.sumRows(dBias, dOut, false)
    },
  }
}

function lossAndNorm(bench: Bench): Repeated {
  const [rows, vocabSize] = [509, 4099]
  const float = bench.device.floatDtype
  const source = bench.random(rows, vocabSize)
  const targets = bench.integers(rows, vocabSize)
  const { storage, tensors } = bench.outputs([
    [float, rows, vocabSize],
    ['f32', rows],
    ['f64', 1],
    ['f64', SCALAR.count],
  ])
  const [logits, losses, total, scalars] = tensors as [Tensor, Tensor, Tensor, Tensor]
  const values = new Float64Array(SCALAR.count)
  values[SCALAR.lossScale] = 1 / rows
  values[SCALAR.gradScale] = 1
  const initial = tensorFrom(bench.device, [SCALAR.count], values, 'f64')
  const asF32 = (tensor: Tensor): Tensor =>
    new Tensor([2 * SCALAR.count], 'f32', tensor.storage, { offset: 2 * tensor.offset })
  const { kernels } = bench.device
  return {
    outputs: storage,
    run() {
      kernels.copy(logits, source)
      kernels.copy(asF32(scalars), asF32(initial))
      kernels.softmaxCrossEntropy(losses, logits, targets, scalars)
      kernels.scaledSum(total, losses, scalars, false)
      kernels.sumOfSquares(scalars, [losses])
    },
  }
}

/** Runs it again and again. @returns which runs differed from the first */
async function differingRuns(device: Gpu, { outputs, run }: Repeated): Promise<number[]> {
  const bytes = new Tensor([outputs.bytes], 'u8', outputs)
  const words = new Tensor([outputs.bytes / 4], 'f32', outputs)
  let first: Buffer | undefined
  const differing: number[] = []
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    device.kernels.fill(words, Number.NaN)
    run()
    const now = Buffer.from((await device.read(bytes)).buffer)
    first ??= now
    if (!first.equals(now)) differing.push(repeat)
  }
  return differing
}

const ATTENTION_SHAPES = [
  { B: 2, T: 500, H: 4, G: 4, K: 64, window: 0 },
  { B: 1, T: 700, H: 4, G: 2, K: 128, window: 0 },
  { B: 1, T: 600, H: 2, G: 1, K: 64, window: 150 },
]

for (const choice of ['mma', 'auto', 'own'] as const) {
  const gpu = await openGpu({ precision: 'bf16', attention: choice })
  describe(`cuda bf16, attention ${choice}, ${REPEATS} runs`, () => {
    if ('skip' in gpu) {
      test('every row', { skip: gpu.skip })
      return
    }
    const { device } = gpu
    after(() => device.close())
    const bench = new Bench(device)
    const programs: Record<string, () => Repeated> = Object.fromEntries(
      ATTENTION_SHAPES.map((shape) => [`attention ${JSON.stringify(shape)}`, () => attention(bench, shape)]),
    )
    if (choice === 'auto') {
      Object.assign(programs, {
        'rmsnorm and layernorm': () => normBackwards(bench),
        embedding: () => embeddingBackward(bench),
        'weight and bias gradients': () => weightGradient(bench),
        'loss, its sum and the norm': () => lossAndNorm(bench),
      })
    }
    for (const [name, make] of Object.entries(programs)) {
      test(name, async () => assert.deepEqual(await differingRuns(device, make()), []))
    }
  })
}
