// Attention on the GPU at shapes for which other kernels run than for the small rows of attention.test.ts: many tiles, and
// lengths from which dq is summed in integers. Held against the simple kernels, which those rows hold against the reference.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { bfloatToFloat } from '../../src/checkpoint/half.ts'
import { standaloneTensor } from '../../src/core/allocator.ts'
import type { HostArray } from '../../src/core/dtype.ts'
import type { AttentionOptions } from '../../src/core/kernels.ts'
import { randomKey } from '../../src/core/random.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { TEST_SEED, writeNumbers } from '../ops/inputs.ts'
import { type Gpu, openGpu } from './gpu.ts'

interface Shape {
  readonly batch: number
  readonly heads: number
  readonly groups?: number
  readonly headDim: number
  readonly length: number
  readonly window?: number
  readonly scale: number
}

const SHAPES: readonly Shape[] = [
  { batch: 4, heads: 34, headDim: 64, length: 1000, scale: 0.125 },
  { batch: 8, heads: 24, groups: 8, headDim: 64, length: 700, window: 150, scale: 0.125 },
  // Scores of hundreds: exponentials relative to a row's first tile overflow.
  { batch: 4, heads: 34, headDim: 64, length: 1000, scale: 8 },
  { batch: 7, heads: 9, headDim: 64, length: 2100, scale: 0.125 },
  { batch: 3, heads: 18, headDim: 128, length: 2500, scale: 0.0884 },
  { batch: 2, heads: 33, headDim: 80, length: 2080, scale: 0.1118 },
]
const LIMITS = { out: 5e-3, lse: 1e-5, dq: 1e-2, dk: 1e-2, dv: 1e-2 } as const
type Result = keyof typeof LIMITS
type Results = Record<Result, HostArray>

interface Inputs {
  readonly q: Tensor
  readonly k: Tensor
  readonly v: Tensor
  readonly dOut: Tensor
  readonly options: AttentionOptions
}

function inputsOf(device: Gpu, { batch, heads, groups = heads, headDim, length, window = 0, scale }: Shape): Inputs {
  const random = (count: number, name: string): Tensor => {
    const tensor = standaloneTensor(device, [batch, length, count * headDim])
    device.kernels.randomNormal(tensor, randomKey(TEST_SEED, `large ${name}`), 0, 0, 1)
    return tensor
  }
  const options = { numHeads: heads, numKeyValueHeads: groups, headDim, scale, isCausal: true, window }
  return { q: random(heads, 'q'), k: random(groups, 'k'), v: random(groups, 'v'), dOut: random(heads, 'dOut'), options }
}

/** Forward and backward by the kernels of `by`; the tensors are those of `device`, in the same context. */
async function resultsOf(device: Gpu, by: Gpu, { q, k, v, dOut, options }: Inputs): Promise<Results> {
  const [batch, length] = q.shape as [number, number]
  const statistic = (): Tensor => standaloneTensor(device, [batch, options.numHeads, length], 'f32')
  const { unrotate: _, ...forwardOptions } = options
  const [out, dq, dk, dv] = [q, q, k, v].map(({ shape }) => standaloneTensor(device, shape)) as Tensor[]
  const [lse, delta] = [statistic(), statistic()]
  device.runtime.synchronize()
  by.kernels.attention(out!, lse, q, k, v, forwardOptions)
  by.kernels.attentionBackward(dq!, dk!, dv!, delta, dOut, out!, lse, q, k, v, options)
  by.runtime.synchronize()
  const tensors = { out, lse, dq, dk, dv } as Record<Result, Tensor>
  const values: Partial<Results> = {}
  for (const [name, tensor] of Object.entries(tensors) as [Result, Tensor][]) {
    values[name] = await device.read(tensor)
  }
  return values as Results
}

/** bf16 as it was read, or f32, as floats. (`numbersOf` is for small tensors.) */
function floatsOf(values: HostArray): Float32Array {
  if (!(values instanceof Uint16Array)) return values as Float32Array
  const floats = new Float32Array(values.length)
  bfloatToFloat(floats, values)
  return floats
}

/** || a - b || / || b || */
function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [difference, norm] = [0, 0]
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    norm += b[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}

const bytesOf = ({ buffer, byteOffset, byteLength }: HostArray): Buffer => Buffer.from(buffer, byteOffset, byteLength)

const [own, simple] = [await openGpu({ attention: 'own' }), await openGpu({ attention: 'simple' })]
describe(`cuda bf16, large attention, seed ${TEST_SEED}`, { skip: 'skip' in own ? own.skip : false }, () => {
  if ('skip' in own || 'skip' in simple) return
  const { device } = own
  after(() => {
    device.close()
    simple.device.close()
  })

  for (const shape of SHAPES) {
    test(JSON.stringify(shape), async () => {
      const inputs = inputsOf(device, shape)
      const ours = await resultsOf(device, device, inputs)
      const wanted = await resultsOf(device, simple.device, inputs)
      const again = await resultsOf(device, device, inputs)
      for (const [name, limit] of Object.entries(LIMITS) as [Result, number][]) {
        assert.ok(bytesOf(again[name]).equals(bytesOf(ours[name])), `${name} of a second run`)
        // With scores of hundreds ds is mostly rounding.
        if (shape.scale > 1 && (name === 'dq' || name === 'dk')) continue
        const error = relativeError(floatsOf(ours[name]), floatsOf(wanted[name]))
        assert.ok(error < limit, `${name}: ${error}`)
      }
    })
  }

  for (const headDim of [64, 128]) {
    const shape: Shape = { batch: 2, heads: 31, headDim, length: 2050, scale: headDim ** -0.5 }
    const { batch, heads, length } = shape
    const columns = heads * headDim

    test(`heads of ${headDim}: gradients of very different sizes`, async () => {
      // A small scale: where scores differ much, dq is mostly rounding of out.
      const inputs = inputsOf(device, { ...shape, scale: 1 / headDim })
      // Rows of dOut from 1e-18 to 1e18, and a column of k 30 times as large as the others.
      const dOut = floatsOf(await device.read(inputs.dOut)).map(
        (x, i) => x * 10 ** ((Math.floor(i / columns) % 37) - 18),
      )
      writeNumbers(inputs.dOut, dOut)
      writeNumbers(
        inputs.k,
        floatsOf(await device.read(inputs.k)).map((x, i) => (i % headDim === 5 ? 30 * x : x)),
      )
      const ordinary = (dq: Float32Array, row: number): Float32Array =>
        dq.subarray(row * columns, (row + 1) * columns).filter((_, i) => i % headDim !== 5)
      const ours = floatsOf((await resultsOf(device, device, inputs)).dq)
      const wanted = floatsOf((await resultsOf(device, simple.device, inputs)).dq)
      for (let row = 0; row < batch * length; row++) {
        // Gradients of queries that see few keys are mostly rounding.
        if (row % length < 16) continue
        const error = relativeError(ordinary(ours, row), ordinary(wanted, row))
        assert.ok(error < 0.05, `dq of row ${row}: ${error}`)
      }
    })

    test(`heads of ${headDim}: numbers that are not finite stay so`, async () => {
      const inputs = inputsOf(device, shape)
      const dOut = floatsOf(await device.read(inputs.dOut))
      const places = [
        { row: 70, head: 1, value: Number.POSITIVE_INFINITY },
        { row: length + 2047, head: 0, value: Number.NaN },
      ]
      for (const { row, head, value } of places) dOut[row * columns + head * headDim + 3] = value
      writeNumbers(inputs.dOut, dOut)
      const dq = floatsOf((await resultsOf(device, device, inputs)).dq)
      const expected = places.flatMap(({ row, head }) =>
        Array.from({ length: headDim }, (_, i) => row * columns + head * headDim + i),
      )
      const found: number[] = []
      for (let i = 0; i < dq.length; i++) if (!Number.isFinite(dq[i])) found.push(i)
      assert.deepEqual(found, expected)
    })

    test(`heads of ${headDim}: dq turned back`, async () => {
      const inputs = inputsOf(device, shape)
      const half = headDim / 2
      const angles = Float32Array.from(
        { length: length * half },
        (_, i) => Math.floor(i / half) * 10 ** (-(i % half) / 16),
      )
      const positions = standaloneTensor(device, [batch, length], 'i32')
      const [cos, sin] = [Math.cos, Math.sin].map((f) => {
        const table = standaloneTensor(device, [length, half], 'f32')
        writeNumbers(table, angles.map(f))
        return table
      }) as [Tensor, Tensor]
      writeNumbers(
        positions,
        Int32Array.from({ length: batch * length }, (_, i) => i % length),
      )
      const options: AttentionOptions = { ...inputs.options, unrotate: { positions, cos, sin } }
      assert.ok(device.kernels.unrotatesAttention!(inputs.q, inputs.k, inputs.v, options))
      const turned = floatsOf((await resultsOf(device, device, { ...inputs, options })).dq)
      const dq = floatsOf((await resultsOf(device, device, inputs)).dq)
      const wanted = dq.map((x, i) => {
        const column = i % headDim
        const angle = angles[(Math.floor(i / columns) % length) * half + (column % half)]!
        const other = dq[column < half ? i + half : i - half]!
        return x * Math.cos(angle) + (column < half ? other : -other) * Math.sin(angle)
      })
      const error = relativeError(turned, wanted)
      assert.ok(error < 5e-3, `dq: ${error}`)
    })
  }
})
