// The CPU attention kernels against float64 loops: every mask, every instruction set this machine has, shapes that
// are multiples of nothing, outputs poisoned with NaN, column slices whose surroundings must stay as they were.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { Isa } from '../../src/backends/cpu/library.ts'
import type { AttentionOptions } from '../../src/core/kernels.ts'
import { Storage, sizeOf, Tensor } from '../../src/core/tensor.ts'
import { AttentionDevice } from './attention-device.ts'
import { type AttentionCase, attentionBackwardReference, attentionReference } from './attention-reference.ts'

const ISAS: Isa[] = ['base', 'avx2', 'avx512']
const devices: AttentionDevice[] = []
for (const isa of ISAS) {
  const device = await AttentionDevice.open(2, isa)
  // A machine that lacks an instruction set opens the next narrower one, which is there already.
  if (device.isa === isa) devices.push(device)
  else device.close()
}
const single = await AttentionDevice.open(1)
const widest = devices[devices.length - 1]!
if (devices.length < ISAS.length) console.log(`skipped: only ${devices.map((d) => d.isa).join(', ')} on this machine`)
after(() => {
  for (const device of [...devices, single]) device.close()
})

/** A small generator of numbers in [0, 1): the cases must be the same in every run. */
function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

function randomArray(random: () => number, n: number, size = 1): Float32Array {
  return Float32Array.from({ length: n }, () => (random() + random() + random() - 1.5) * 2 * size)
}

const base: AttentionCase = { B: 1, H: 1, G: 1, Tq: 1, Tk: 1, K: 4, isCausal: true, window: 0, scale: 0.5 }

function make(options: Partial<AttentionCase>): AttentionCase {
  const c = { ...base, ...options }
  return { ...c, scale: options.scale ?? 1 / Math.sqrt(c.K) }
}

/** Documents of uneven length, in each sequence others. */
function documents(random: () => number, B: number, T: number, mean: number): Int32Array {
  const docStart = new Int32Array(B * T)
  for (let b = 0; b < B; b++) {
    let start = 0
    for (let i = 0; i < T; i++) {
      if (i > 0 && random() < 1 / mean) start = i
      docStart[b * T + i] = start
    }
  }
  return docStart
}

function chosenCases(): AttentionCase[] {
  const random = generator(11)
  const docs = (B: number, T: number, mean: number) => ({ B, Tq: T, Tk: T, docStart: documents(random, B, T, mean) })
  return [
    make({}),
    make({ B: 2, H: 3, G: 3, Tq: 64, Tk: 64, K: 32 }),
    make({ B: 1, H: 2, G: 2, Tq: 130, Tk: 130, K: 64 }),
    make({ B: 2, H: 4, G: 2, Tq: 67, Tk: 67, K: 20 }),
    make({ H: 8, G: 1, Tq: 33, Tk: 33, K: 16 }),
    make({ Tq: 21, Tk: 21, K: 256, H: 2, G: 1 }),
    // Chunked prefill and decoding behind a cache, up to several key ranges and with grouped queries.
    make({ H: 2, G: 2, Tq: 70, Tk: 203, K: 12 }),
    make({ B: 2, H: 6, G: 2, Tq: 1, Tk: 300, K: 64 }),
    make({ H: 12, G: 4, Tq: 1, Tk: 2049, K: 24 }),
    make({ B: 3, H: 5, G: 5, Tq: 3, Tk: 77, K: 20 }),
    make({ H: 8, G: 2, Tq: 4, Tk: 1030, K: 36, window: 50 }),
    make({ H: 2, G: 2, Tq: 2, Tk: 90, K: 8, isCausal: false }),
    // Bidirectional and cross attention.
    make({ B: 2, H: 2, G: 2, Tq: 65, Tk: 65, K: 40, isCausal: false }),
    make({ B: 2, H: 3, G: 1, Tq: 37, Tk: 141, K: 28, isCausal: false }),
    make({ H: 2, G: 2, Tq: 141, Tk: 9, K: 7, isCausal: false }),
    // More queries than keys: the first ones see nothing.
    make({ B: 2, H: 2, G: 1, Tq: 100, Tk: 30, K: 16 }),
    make({ H: 2, G: 2, Tq: 4, Tk: 2, K: 16 }),
    // Sliding windows, narrower and wider than a tile.
    make({ H: 2, G: 2, Tq: 200, Tk: 200, K: 16, window: 1 }),
    make({ H: 2, G: 1, Tq: 200, Tk: 200, K: 16, window: 17 }),
    make({ H: 1, G: 1, Tq: 300, Tk: 300, K: 12, window: 129 }),
    make({ H: 2, G: 2, Tq: 70, Tk: 190, K: 16, window: 40 }),
    // Packed documents, with a window too; several key blocks and ranges.
    make({ H: 2, G: 2, K: 16, ...docs(2, 150, 9) }),
    make({ H: 2, G: 1, K: 20, ...docs(2, 190, 70) }),
    make({ H: 1, G: 1, K: 8, ...docs(1, 600, 100) }),
    make({ H: 2, G: 2, K: 16, window: 12, ...docs(2, 130, 30) }),
    make({ H: 2, G: 2, K: 16, ...docs(2, 3, 2) }),
    make({ B: 6, H: 3, G: 3, Tq: 300, Tk: 300, K: 4 }),
    // Scores of hundreds: the running maximum has to hold.
    make({ H: 2, G: 2, Tq: 90, Tk: 90, K: 16, scale: 60 }),
    make({ H: 2, G: 2, Tq: 1, Tk: 400, K: 16, scale: 60 }),
  ]
}

function randomCase(seed: number): AttentionCase {
  const random = generator(seed)
  const upTo = (n: number) => 1 + Math.floor(random() * n)
  const G = upTo(3)
  const isCausal = random() < 0.7
  const Tk = upTo(random() < 0.5 ? 40 : 160)
  const isPacked = isCausal && random() < 0.3
  const Tq = isPacked ? Tk : upTo(random() < 0.5 ? 40 : 160)
  const B = upTo(2)
  return make({
    B,
    H: G * upTo(3),
    G,
    Tq,
    Tk,
    K: upTo(40),
    isCausal,
    window: isCausal && random() < 0.3 ? upTo(Tk) : 0,
    ...(isPacked ? { docStart: documents(random, B, Tk, 20) } : {}),
  })
}

function describe(c: AttentionCase): string {
  const mask = `${c.isCausal ? 'causal' : 'full'}${c.window > 0 ? ` window ${c.window}` : ''}${c.docStart ? ' packed' : ''}`
  return `B${c.B} H${c.H} G${c.G} Tq${c.Tq} Tk${c.Tk} K${c.K} ${mask}`
}

/** A [B, T, C] tensor inside wider poisoned rows, at a random column. */
function slice(device: AttentionDevice, random: () => number, B: number, T: number, C: number): Tensor {
  const before = Math.floor(random() * 5)
  const width = C + before + Math.floor(random() * 5)
  const storage = new Storage(device, B * T * width * 4)
  storage.bind(device.allocate(storage.bytes), 0)
  return new Tensor([B, T, width], 'f32', storage).columns(before, C)
}

function whole(
  device: AttentionDevice,
  shape: number[],
  values?: ArrayLike<number>,
  dtype: 'f32' | 'i32' = 'f32',
): Tensor {
  const storage = new Storage(device, sizeOf(shape) * 4)
  storage.bind(device.allocate(storage.bytes), 0)
  const tensor = new Tensor(shape, dtype, storage)
  if (values) device.write(tensor, values)
  return tensor
}

function fill(device: AttentionDevice, tensor: Tensor, values: ArrayLike<number>): Tensor {
  const cells = device.storageOf(tensor)
  for (let n = 0; n < tensor.size; n++) {
    cells[tensor.offset + Math.floor(n / tensor.columnCount) * tensor.rowStride + (n % tensor.columnCount)] = values[n]!
  }
  return tensor
}

/** The elements of a slice; fails if anything outside of it was written. */
function take(device: AttentionDevice, tensor: Tensor, name: string): Float32Array {
  const cells = device.storageOf(tensor)
  const out = new Float32Array(tensor.size)
  for (let at = 0; at < cells.length; at++) {
    const row = Math.floor(at / tensor.rowStride)
    const column = at - row * tensor.rowStride - tensor.offset
    if (column >= 0 && column < tensor.columnCount) out[row * tensor.columnCount + column] = cells[at]!
    else assert.ok(Number.isNaN(cells[at]), `${name}: column ${column} outside of the slice was written`)
  }
  return out
}

interface Inputs {
  q: Float32Array
  k: Float32Array
  v: Float32Array
  dOut: Float32Array
}

function inputsOf(c: AttentionCase, seed: number): Inputs {
  const random = generator(seed)
  const queries = c.B * c.Tq * c.H * c.K
  const keys = c.B * c.Tk * c.G * c.K
  return {
    q: randomArray(random, queries),
    k: randomArray(random, keys),
    v: randomArray(random, keys),
    dOut: randomArray(random, queries),
  }
}

function run(device: AttentionDevice, c: AttentionCase, inputs: Inputs, seed: number): Record<string, Float32Array> {
  const random = generator(seed)
  const { B, H, G, Tq, Tk, K } = c
  const tensors: Tensor[] = []
  const keep = (tensor: Tensor) => {
    tensors.push(tensor)
    return tensor
  }
  const query = () => keep(slice(device, random, B, Tq, H * K))
  const key = () => keep(slice(device, random, B, Tk, G * K))
  const options: AttentionOptions = {
    numHeads: H,
    numKeyValueHeads: G,
    headDim: K,
    scale: c.scale,
    isCausal: c.isCausal,
    window: c.window,
    ...(c.docStart ? { docStart: keep(whole(device, [B, Tk], c.docStart, 'i32')) } : {}),
  }
  const q = fill(device, query(), inputs.q)
  const k = fill(device, key(), inputs.k)
  const v = fill(device, key(), inputs.v)
  const dOut = fill(device, query(), inputs.dOut)
  const [out, dq, dk, dv] = [query(), query(), key(), key()]
  const lse = keep(whole(device, [B, H, Tq]))
  const delta = keep(whole(device, [B, H, Tq]))
  device.kernels.attention(out, lse, q, k, v, options)
  device.kernels.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options)
  const results = Object.fromEntries(
    Object.entries({ out, lse, dq, dk, dv }).map(([name, tensor]) => [name, take(device, tensor, name)]),
  )
  for (const tensor of tensors) device.release(tensor.storage.buffer!)
  return results
}

/** Largest difference as a part of the largest value (or of 1: sums that cancel to nothing keep their rounding); not finite values must be the same ones. */
function difference(got: ArrayLike<number>, wanted: ArrayLike<number>): number {
  let top = 1e-30
  let worst = 0
  assert.equal(got.length, wanted.length)
  for (let n = 0; n < wanted.length; n++) {
    if (Number.isFinite(wanted[n])) {
      top = Math.max(top, Math.abs(wanted[n]!))
      const d = Math.abs(got[n]! - wanted[n]!)
      worst = Math.max(worst, d)
    } else if (!Object.is(got[n], wanted[n])) return Number.NaN
  }
  return worst / Math.max(top, 1)
}

function compare(device: AttentionDevice, c: AttentionCase, seed: number, tolerance = 1e-5): void {
  const inputs = inputsOf(c, seed)
  const got = run(device, c, inputs, seed + 1)
  const { out, lse } = attentionReference(c, inputs.q, inputs.k, inputs.v)
  const wanted = { out, lse, ...attentionBackwardReference(c, inputs.q, inputs.k, inputs.v, inputs.dOut) }
  for (const [name, values] of Object.entries(wanted)) {
    const error = difference(got[name]!, values)
    assert.ok(error <= tolerance, `${device.isa} ${describe(c)}: ${name} is off by ${error}`)
  }
}

for (const device of devices) {
  test(`forward and backward equal the float64 loops (${device.isa})`, () => {
    // Scores of hundreds carry their own rounding error into the exponent.
    chosenCases().forEach((c, n) => void compare(device, c, 100 + n, c.scale > 10 ? 1e-3 : 1e-5))
    for (let seed = 0; seed < 40; seed++) compare(device, randomCase(1000 + seed * 7), seed)
  })
}

test('every headDim from 1 to 20 and up to 256', () => {
  const widths = [...Array.from({ length: 20 }, (_, n) => n + 1), 48, 72, 80, 96, 100, 112, 128, 192, 252, 256]
  for (const device of devices) for (const K of widths) compare(device, make({ H: 2, G: 1, Tq: 19, Tk: 23, K }), K)
})

test('one and two threads give the same bits', () => {
  const cases = [
    make({ B: 1, H: 1, G: 1, Tq: 400, Tk: 400, K: 32 }),
    make({ B: 4, H: 6, G: 2, Tq: 130, Tk: 130, K: 20 }),
    make({ B: 1, H: 8, G: 2, Tq: 1, Tk: 3000, K: 64 }),
    make({ B: 1, H: 4, G: 2, Tq: 90, Tk: 700, K: 64, window: 100 }),
  ]
  cases.forEach((c, n) => {
    const inputs = inputsOf(c, n)
    assert.deepEqual(run(single, c, inputs, n), run(widest, c, inputs, n), describe(c))
  })
})

test('gradients equal central differences of the forward', () => {
  const c = make({ B: 2, H: 2, G: 1, Tq: 5, Tk: 7, K: 3 })
  const inputs = inputsOf(c, 5)
  const got = run(widest, c, inputs, 6)
  const loss = (changed: Partial<Record<'q' | 'k' | 'v', Float64Array>>) => {
    const { q, k, v } = { ...inputs, ...changed }
    return attentionReference(c, q, k, v).out.reduce((sum, y, n) => sum + y * inputs.dOut[n]!, 0)
  }
  for (const name of ['q', 'k', 'v'] as const) {
    const step = 1e-5
    const numeric = Float64Array.from(inputs[name], (_, n) => {
      const up = Float64Array.from(inputs[name])
      const down = Float64Array.from(inputs[name])
      up[n]! += step
      down[n]! -= step
      return (loss({ [name]: up }) - loss({ [name]: down })) / (2 * step)
    })
    assert.ok(difference(got[`d${name}`]!, numeric) < 1e-5, `d${name}`)
  }
})

test('a query that sees no key gives zeros and lse -inf, and no gradient', () => {
  for (const device of devices) {
    for (const [Tq, Tk] of [
      [90, 40],
      [4, 1],
    ] as const) {
      const c = make({ H: 2, G: 2, Tq, Tk, K: 8 })
      const { out, lse, dq } = run(device, c, inputsOf(c, 1), 2)
      const blind = (Tq - Tk) * c.H * c.K
      assert.ok(out!.subarray(0, blind).every((y) => y === 0))
      assert.ok(dq!.subarray(0, blind).every((y) => y === 0))
      assert.ok(lse!.subarray(0, Tq - Tk).every((y) => y === -Infinity))
      assert.ok(out!.subarray(blind).every(Number.isFinite))
    }
  }
})

test('a NaN shows in its own row and in no other', () => {
  for (const device of devices) {
    for (const Tq of [1, 40]) {
      const c = make({ B: 2, H: 2, G: 2, Tq, Tk: 40, K: 8 })
      const inputs = inputsOf(c, 3)
      inputs.q[0] = Number.NaN
      const { out, lse } = run(device, c, inputs, 4)
      assert.ok(out!.subarray(0, c.K).every(Number.isNaN))
      assert.ok(Number.isNaN(lse![0]))
      assert.ok(out!.subarray(c.K).every(Number.isFinite))
    }
  }
})
