// Soft-capped scores and a bias by relative position: what must hold whatever the numbers are, T5's bias made from an
// embedding of buckets, a bias that is trained itself, and what is refused. The gradients stand in the op table.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { MetaDevice } from '../../src/backends/meta/meta-device.ts'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import { PlannedArena, standaloneTensor } from '../../src/core/allocator.ts'
import { allocateGradients, buildArenas } from '../../src/core/arena.ts'
import type { Device } from '../../src/core/device.ts'
import { ShapeError } from '../../src/core/errors.ts'
import { Parameter } from '../../src/core/parameter.ts'
import { Tape } from '../../src/core/tape.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { attention } from '../../src/ops/attention.ts'
import { embedding } from '../../src/ops/embedding.ts'
import { planProgram } from '../../src/train/plan.ts'
import { openCpu } from '../devices.ts'
import { normals, placeTensor, writeNumbers } from './inputs.ts'

const [HEADS, KEYS, QUERIES, WIDTH] = [4, 70, 66, 32]
const POSITIONS = QUERIES + KEYS - 1
const cpu = await openCpu()
const reference = openReferenceDevice()
after(() => cpu.close())

interface Run {
  readonly out: Float64Array
  readonly gradients: Record<string, Float64Array>
}

/** Attention of the same random q, k, v and output gradient; `bias` makes the bias on the device. */
async function run(
  device: Device,
  options: { softcap?: number },
  bias?: (device: Device) => { bias: Tensor; watched?: Tensor; parameter?: Parameter },
): Promise<Run> {
  const place = (name: string, rows: number): Tensor =>
    placeTensor(device, [2, rows, WIDTH], normals(`forms/${name}`, 2 * rows * WIDTH))
  const [q, k, v] = [place('q', QUERIES), place('k', KEYS), place('v', KEYS)]
  using tape = new Tape(device)
  for (const tensor of [q, k, v]) tape.watch(tensor)
  const made = bias?.(device)
  if (made?.watched !== undefined) tape.watch(made.watched)
  const out = attention(q, k, v, {
    numHeads: HEADS,
    isCausal: false,
    ...options,
    ...(made && { bias: made.bias }),
  })
  const values = Float64Array.from((await device.read(out)) as ArrayLike<number>)
  const gradients = tape.backward(out, place('dOut', QUERIES))
  const read = async (tensor: Tensor): Promise<Float64Array> =>
    Float64Array.from((await device.read(tensor)) as ArrayLike<number>)
  const all: Record<string, Float64Array> = { q: await read(gradients.find(q)!) }
  if (made?.watched !== undefined) all.bias = await read(gradients.find(made.watched)!)
  if (made?.parameter !== undefined) all.table = await read(made.parameter.gradient!)
  return { out: values, gradients: all }
}

/** Of two arrays, over the norm of the second. */
function distance(actual: Float64Array, expected: Float64Array): number {
  const norm = (values: Float64Array): number => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0))
  return norm(actual.map((x, n) => x - expected[n]!)) / norm(expected)
}

const biasOf = (values: (position: number, head: number) => number) => (device: Device) => {
  const numbers = Float64Array.from({ length: POSITIONS * HEADS }, (_, n) =>
    Math.fround(values(Math.floor(n / HEADS), n % HEADS)),
  )
  const bias = placeTensor(device, [POSITIONS, HEADS], numbers)
  return { bias, watched: bias }
}

for (const device of [cpu, reference]) {
  test(`${device.name}: a bias that is the same for all positions changes nothing, and its gradient sums to nothing`, async () => {
    const plain = await run(device, {})
    const shifted = await run(
      device,
      {},
      biasOf((_, head) => 2 - head),
    )
    assert.ok(distance(shifted.out, plain.out) < 1e-5)
    assert.ok(distance(shifted.gradients.q!, plain.gradients.q!) < 1e-5)
    const largest = Math.max(...shifted.gradients.bias!.map(Math.abs))
    assert.ok(largest > 1e-3)
    for (let head = 0; head < HEADS; head++) {
      const sum = shifted.gradients.bias!.reduce((total, x, n) => total + (n % HEADS === head ? x : 0), 0)
      assert.ok(Math.abs(sum) < 1e-4 * largest * POSITIONS, `head ${head}: ${sum}`)
    }
  })

  test(`${device.name}: a cap far above all scores changes little, a low one much, and none gives equal weights`, async () => {
    const plain = await run(device, {})
    assert.ok(distance((await run(device, { softcap: 1e4 })).out, plain.out) < 1e-5)
    assert.ok(distance((await run(device, { softcap: 0.5 })).out, plain.out) > 1e-2)
    const flat = await run(device, { softcap: 1e-6 })
    const [value] = [normals('forms/v', 2 * KEYS * WIDTH)]
    const mean = value.reduce((sum, x, n) => sum + (n < KEYS * WIDTH && n % WIDTH === 0 ? x : 0), 0) / KEYS
    assert.ok(Math.abs(flat.out[0]! - mean) < 1e-4)
  })

  test(`${device.name}: a bias that hides all keys but one position leaves that value alone`, async () => {
    const { out } = await run(
      device,
      {},
      biasOf((position) => (position === QUERIES - 1 ? 0 : -1e4)),
    )
    const value = normals('forms/v', 2 * KEYS * WIDTH)
    // Relative position 0: query i sees key i.
    assert.ok(distance(out.subarray(0, QUERIES * WIDTH), value.subarray(0, QUERIES * WIDTH)) < 1e-5)
  })
}

/** T5's buckets of relative positions (bidirectional, Raffel et al. 2020): half for each side, far ones by logarithm. */
function bucketOf(relative: number, buckets = 8, far = 40): number {
  const half = buckets / 2
  const distance = Math.abs(relative)
  const exact = half / 2
  const bucket =
    distance < exact
      ? distance
      : Math.min(half - 1, exact + Math.floor((Math.log(distance / exact) / Math.log(far / exact)) * (half - exact)))
  return (relative > 0 ? half : 0) + bucket
}

test('T5: a learned table of buckets gets its gradient through the bias, on the cpu as in the reference', async () => {
  const table = (device: Device) => {
    const parameter = Parameter.single('table', [8, HEADS], 'zeros')
    allocateGradients(buildArenas([parameter], device))
    writeNumbers(parameter, normals('forms/table', 8 * HEADS))
    const ids = standaloneTensor(device, [POSITIONS], 'i32')
    device.write(
      ids,
      Int32Array.from({ length: POSITIONS }, (_, position) => bucketOf(position - QUERIES + 1)),
    )
    return { bias: embedding(parameter, ids), parameter }
  }
  const [ours, wanted] = [await run(cpu, { softcap: 3 }, table), await run(reference, { softcap: 3 }, table)]
  assert.ok(distance(ours.out, wanted.out) < 1e-5)
  assert.ok(wanted.gradients.table!.some((x) => Math.abs(x) > 1e-2))
  assert.ok(distance(ours.gradients.table!, wanted.gradients.table!) < 1e-5)
})

test('what does not fit is refused in a sentence', () => {
  const q = standaloneTensor(cpu, [1, 5, 8])
  const bad = standaloneTensor(cpu, [8, 2])
  assert.throws(() => attention(q, q, q, { numHeads: 2, bias: bad }), ShapeError)
  for (const softcap of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.throws(() => attention(q, q, q, { numHeads: 2, softcap }), /softcap must be a positive number/)
  }
})

test('a bias that is a parameter: several micro-batches follow the plan of one, and their gradients add up', async () => {
  /** The program of a micro-batch, and the bias that it trains. */
  const on = (device: Device): { bias: Parameter; program: (tape: Tape) => void } => {
    const bias = Parameter.single('bias', [POSITIONS, HEADS], 'zeros')
    allocateGradients(buildArenas([bias], device))
    const place = (name: string, rows: number): Tensor =>
      placeTensor(device, [2, rows, WIDTH], normals(`forms/${name}`, 2 * rows * WIDTH))
    const [q, k, v, dOut] = [place('q', QUERIES), place('k', KEYS), place('v', KEYS), place('dOut', QUERIES)]
    const program = (tape: Tape): void => {
      tape.backward(attention(q, k, v, { numHeads: HEADS, isCausal: false, bias }), dOut)
    }
    return { bias, program }
  }
  const meta = new MetaDevice(cpu)
  const plan = planProgram(meta, {}, on(meta).program)
  const { bias, program } = on(cpu)
  const arena = new PlannedArena(plan.memory, cpu.allocate(plan.memory.totalBytes))
  const gradients: Float64Array[] = []
  for (let microBatch = 0; microBatch < 3; microBatch++) {
    arena.reset()
    using tape = new Tape(cpu, { allocator: arena })
    program(tape)
    assert.ok(arena.isComplete)
    gradients.push(Float64Array.from((await cpu.read(bias.gradient!)) as ArrayLike<number>))
  }
  const [one, two, three] = gradients as [Float64Array, Float64Array, Float64Array]
  assert.ok(one.some((x) => Math.abs(x) > 1e-2))
  assert.deepEqual(
    two,
    one.map((x) => 2 * x),
  )
  assert.ok(
    distance(
      three,
      one.map((x) => 3 * x),
    ) < 1e-6,
  )
})
