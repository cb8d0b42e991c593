// Elementwise, norm and activation kernels on a card: each against the float64 reference in three element types, then
// GB/s at the shapes of a training step, as a share of what the card's memory gives.
//     node bench/gpu/elementwise.ts [check] [time]
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { activationKernels } from '../../src/backends/cuda/activation.ts'
import { CudaDriver } from '../../src/backends/cuda/driver.ts'
import { elementwiseKernels } from '../../src/backends/cuda/elementwise.ts'
import { HostLink } from '../../src/backends/cuda/host-link.ts'
import type { KernelOptions, Launcher } from '../../src/backends/cuda/launcher.ts'
import { normKernels } from '../../src/backends/cuda/norm.ts'
import { KernelCompiler } from '../../src/backends/cuda/nvrtc.ts'
import { CudaRuntime, cardAt } from '../../src/backends/cuda/runtime.ts'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import { bfloatToFloat, floatToBfloat, floatToHalf, halfToFloat } from '../../src/checkpoint/half.ts'
import { standaloneTensor } from '../../src/core/allocator.ts'
import type { Device } from '../../src/core/device.ts'
import { DTYPE_BYTES, type Dtype, hostArray } from '../../src/core/dtype.ts'
import { type Kernels, SCALAR } from '../../src/core/kernels.ts'
import { Storage, sizeOf, Tensor } from '../../src/core/tensor.ts'
import { findLibraries } from '../../src/machine/libraries.ts'

type Floats = 'f32' | 'bf16' | 'f16'

/** Bytes a second that streaming kernels reach on an H100 (HBM3). */
const PRACTICAL = 3.0e12
/** Relative error of the norm: half of a unit in the last place, and what f32 sums leave. */
const TOLERANCE: Readonly<Record<Floats, number>> = { f32: 2e-6, bf16: 2.5e-3, f16: 3.5e-4 }

const libraries = await findLibraries(process.env, ['cuda', 'nvrtc'])
const driver = new CudaDriver(libraries.cuda!.path)
const compiler = new KernelCompiler(libraries.nvrtc!.path, join(tmpdir(), 'elementwise-bench'))
const runtime = new CudaRuntime(driver, compiler, cardAt(driver, 0))
const link = new HostLink(runtime)
const reference = openReferenceDevice()

function device(floatDtype: Floats): Device {
  return {
    name: 'card',
    floatDtype,
    itemBytes: (dtype: Dtype) => DTYPE_BYTES[dtype],
    allocate: (bytes: number) => ({ bytes, address: runtime.allocate(bytes) }),
  } as unknown as Device
}

function kernelsOf(launcher: Launcher): Kernels {
  return {
    ...elementwiseKernels(launcher),
    ...activationKernels(launcher),
    ...normKernels(launcher),
  } as unknown as Kernels
}

/** Runs `body` with kernels that do nothing, and compiles all that it asked for side by side. */
async function compileAhead(body: (kernels: Kernels) => void): Promise<void> {
  const wanted = new Map<string, { file: string; architecture: string; options: string[] }>()
  const recorder: Launcher = {
    multiprocessors: runtime.multiprocessors,
    computeCapability: runtime.computeCapability,
    maxSharedBytes: runtime.maxSharedBytes,
    kernel: (file: string, _name: string, _signature: string, { dtype = 'f32', defines = {} }: KernelOptions = {}) => {
      const options = [
        `-DTY_DTYPE=${['f32', 'bf16', 'f16'].indexOf(dtype)}`,
        ...Object.entries(defines).map(([name, value]) => `-D${name}=${value}`),
      ]
      const request = { file: `${file}.cu`, architecture: 'sm_90a', options }
      return () => void wanted.set(`${file} ${options.join(' ')}`, request)
    },
    scratch: () => 0,
    tensorMap: () => new Uint8Array(128),
  }
  body(kernelsOf(recorder))
  const start = performance.now()
  for (const next of wanted.values()) compiler.cubin(next)
  console.log(`compiled ${wanted.size} sets of kernels in ${((performance.now() - start) / 1e3).toFixed(1)} s`)
}

// --- correctness

interface Spec {
  readonly shape: readonly number[]
  /** Default: the element type under test. */
  readonly dtype?: Dtype
  readonly columns?: { readonly from: number; readonly of: number }
  readonly values?: 'poison' | readonly number[]
  readonly mean?: number
}
interface Case {
  readonly name: string
  readonly tensors: Readonly<Record<string, Spec>>
  run(kernels: Kernels, t: Record<string, Tensor>): void
}

let seed = Number(process.env.SEED ?? Date.now() % 1e9) | 0
console.log(`${runtime.card.name}, random inputs of seed ${seed}`)
function uniform(): number {
  seed = (Math.imul(seed, 1664525) + 1013904223) | 0
  return ((seed >>> 8) + 0.5) / 2 ** 24
}
const normal = (): number => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())

function rounded(values: Float64Array, dtype: Dtype): Float64Array {
  if (dtype === 'f64' || dtype === 'i32' || dtype === 'u8') return values
  const floats = Float32Array.from(values)
  if (dtype === 'bf16') bfloatToFloat(floats, floatToBfloat(floats))
  else if (dtype === 'f16') halfToFloat(floats, floatToHalf(floats))
  return Float64Array.from(floats)
}

function write(tensor: Tensor, values: Float64Array): void {
  const { dtype } = tensor
  if (dtype === 'bf16') link.write(tensor.address, floatToBfloat(values))
  else if (dtype === 'f16') link.write(tensor.address, floatToHalf(values))
  else {
    const host = hostArray(dtype, values.length)
    host.set(values)
    link.write(tensor.address, host)
  }
}

async function read(tensor: Tensor): Promise<Float64Array> {
  const host = hostArray(tensor.dtype, tensor.size)
  await link.read(host, tensor.address)
  if (!(host instanceof Uint16Array)) return Float64Array.from(host)
  const floats = new Float32Array(host.length)
  if (tensor.dtype === 'bf16') bfloatToFloat(floats, host)
  else halfToFloat(floats, host)
  return Float64Array.from(floats)
}

async function check(kernels: Kernels, floatDtype: Floats, { name, tensors, run }: Case): Promise<boolean> {
  const card = device(floatDtype)
  const bases: Record<string, { card: Tensor; reference: Tensor }> = {}
  const given: { card: Record<string, Tensor>; reference: Record<string, Tensor> } = { card: {}, reference: {} }
  for (const [key, spec] of Object.entries(tensors)) {
    const dtype = spec.dtype ?? floatDtype
    const width = spec.shape[spec.shape.length - 1]!
    const shape = [...spec.shape.slice(0, -1), spec.columns?.of ?? width]
    const values = Float64Array.from({ length: sizeOf(shape) }, (_, i) =>
      spec.values === 'poison' ? Number.NaN : spec.values === undefined ? (spec.mean ?? 0) + normal() : spec.values[i]!,
    )
    const exact = rounded(values, dtype)
    const pair = { card: standaloneTensor(card, shape, dtype), reference: standaloneTensor(reference, shape, 'f64') }
    write(pair.card, exact)
    reference.write(pair.reference, exact)
    bases[key] = pair
    for (const where of ['card', 'reference'] as const) {
      given[where][key] = spec.columns === undefined ? pair[where] : pair[where].columns(spec.columns.from, width)
    }
  }
  let isRight = true
  try {
    run(kernels, given.card)
    run(reference.kernels, given.reference)
    for (const [key, pair] of Object.entries(bases)) {
      const actual = await read(pair.card)
      const expected = await reference.read(pair.reference)
      let errors = 0
      let norm = 0
      for (let i = 0; i < actual.length; i++) {
        if (Number.isNaN(expected[i]) && Number.isNaN(actual[i])) continue
        errors += (actual[i]! - expected[i]!) ** 2
        norm += expected[i]! ** 2
      }
      const error = Math.sqrt(errors / Math.max(norm, 1e-300))
      // A single element may be off by all of what is half of that on average.
      const allowed = (actual.length < 100 ? 2 : 1) * TOLERANCE[pair.card.dtype as Floats]
      if (!(errors === 0 || error <= allowed)) {
        isRight = false
        console.log(`FAIL ${floatDtype} ${name}: ${key} is off by ${error.toExponential(2)}`)
      }
    }
  } catch (error) {
    console.log(`FAIL ${floatDtype} ${name}: ${(error as Error).message.slice(0, 400)}`)
    isRight = false
  }
  for (const { card: tensor } of Object.values(bases)) runtime.free(tensor.storage.address)
  return isRight
}

const out = (shape: number[], rest: Partial<Spec> = {}): Spec => ({ shape, values: 'poison', ...rest })
const slice = (shape: number[], from: number, of: number, rest: Partial<Spec> = {}): Spec => ({
  shape,
  columns: { from, of },
  ...rest,
})

function casesFor(floatDtype: Floats): Case[] {
  const other: Floats = floatDtype === 'f32' ? 'bf16' : 'f32'
  const scalars = Array.from({ length: SCALAR.count }, (_, i) => (i === SCALAR.lossScale ? 1 / 77 : 0.5))
  const list: Case[] = []
  const add = (name: string, tensors: Case['tensors'], run: Case['run']): void => void list.push({ name, tensors, run })
  for (const n of [1, 1037, 70000]) {
    add(`fill ${n}`, { y: out([n]) }, (k, { y }) => k.fill(y!, 1.5))
    add(`copy ${n}`, { y: out([n]), x: { shape: [n] } }, (k, { y, x }) => k.copy(y!, x!))
    add(`cast from ${other} ${n}`, { y: out([n]), x: { shape: [n], dtype: other } }, (k, { y, x }) => k.copy(y!, x!))
    add(`cast to ${other} ${n}`, { y: out([n], { dtype: other }), x: { shape: [n] } }, (k, { y, x }) => k.copy(y!, x!))
    add(`add ${n}`, { a: { shape: [n] }, b: { shape: [n] } }, (k, { a, b }) => k.add(b!, a!, b!))
    add(`accumulate ${n}`, { y: { shape: [n] }, x: { shape: [n] } }, (k, { y, x }) => k.accumulate(y!, x!))
    add(`accumulate into f32 ${n}`, { y: { shape: [n], dtype: 'f32' }, x: { shape: [n] } }, (k, { y, x }) =>
      k.accumulate(y!, x!),
    )
    add(`axpby ${n}`, { y: out([n]), a: { shape: [n] }, b: { shape: [n] } }, (k, { y, a, b }) =>
      k.axpby(y!, a!, b!, 0.3, -1.7),
    )
    for (const kind of ['none', 'tanh'] as const) {
      add(`gelu ${kind} ${n}`, { y: out([n]), x: { shape: [n] } }, (k, { y, x }) => k.gelu(y!, x!, kind))
      add(`gelu backward ${kind} ${n}`, { d: { shape: [n] }, x: { shape: [n] } }, (k, { d, x }) =>
        k.geluBackward(d!, d!, x!, kind),
      )
    }
  }
  for (const dtype of ['f64', 'i32', 'u8'] as const) {
    add(`fill ${dtype}`, { y: { shape: [35], dtype } }, (k, { y }) => k.fill(y!, 3))
    const x: Spec = { shape: [35], dtype, values: Array.from({ length: 35 }, (_, i) => i) }
    add(`copy ${dtype}`, { y: { ...x, values: new Array(35).fill(0) }, x }, (k, { y, x }) => k.copy(y!, x!))
  }
  for (const [from, of] of [
    [3, 19],
    [16, 32],
  ] as const) {
    const width = of === 19 ? 7 : 16
    const rows = [5, 9, width]
    add(`fill of a slice ${of}`, { y: slice(rows, from, of) }, (k, { y }) => k.fill(y!, -2))
    add(`copy into a slice ${of}`, { y: slice(rows, from, of), x: { shape: rows } }, (k, { y, x }) => k.copy(y!, x!))
    add(`copy out of a slice ${of}`, { y: out(rows), x: slice(rows, from, of) }, (k, { y, x }) => k.copy(y!, x!))
    add(
      `accumulate a slice ${of}`,
      { y: slice(rows, from, of, { dtype: 'f32' }), x: slice(rows, 0, of + 16) },
      (k, { y, x }) => k.accumulate(y!, x!),
    )
    add(`sumRows of a slice ${of}`, { y: out([width], { dtype: 'f32' }), x: slice(rows, from, of) }, (k, { y, x }) =>
      k.sumRows(y!, x!, false),
    )
  }
  for (const [rows, columns] of [
    [1, 5],
    [201, 35],
    [1000, 768],
    [70, 3000],
  ] as const) {
    for (const accumulate of [false, true]) {
      add(
        `sumRows ${rows} x ${columns}, accumulate ${accumulate}`,
        { y: { shape: [columns], dtype: 'f32' }, x: { shape: [rows, columns] } },
        (k, { y, x }) => k.sumRows(y!, x!, accumulate),
      )
    }
  }
  for (const n of [5, 50000]) {
    add(
      `scaledSum ${n}`,
      {
        y: { shape: [1], dtype: 'f64' },
        x: { shape: [n], dtype: 'f32', mean: 3 },
        scalars: { shape: [SCALAR.count], dtype: 'f64', values: scalars },
      },
      (k, { y, x, scalars }) => k.scaledSum(y!, x!, scalars!, true),
    )
  }
  for (const [rows, width] of [
    [7, 13],
    [33, 768],
    [5, 5632],
  ] as const) {
    add(`swiglu ${width}`, { y: out([rows, width]), x: { shape: [rows, 2 * width] } }, (k, { y, x }) =>
      k.swiglu(y!, x!),
    )
    add(
      `swiglu backward ${width}`,
      { d: out([rows, 2 * width]), dy: { shape: [rows, width] }, x: { shape: [rows, 2 * width] } },
      (k, { d, dy, x }) => k.swigluBackward(d!, dy!, x!),
    )
  }
  for (const [heads, headDim, of, from, tables] of [
    [3, 4, 17, 2, undefined],
    [5, 64, 64 * 7, 0, 'f32'],
    [24, 64, 64 * 36, 0, undefined],
    [9, 128, 128 * 11, 128, 'f32'],
  ] as const) {
    const width = heads * headDim
    const table: Spec = { shape: [40, headDim / 2], ...(tables && { dtype: tables }) }
    const positions: Spec = { shape: [30], dtype: 'i32', values: Array.from({ length: 30 }, (_, i) => (i * 7) % 40) }
    const shared = { positions, cos: table, sin: table }
    for (const inverse of [false, true]) {
      const options = { numHeads: heads, headDim, inverse }
      add(`rope in place ${width} of ${of}`, { x: slice([30, width], from, of), ...shared }, (k, t) =>
        k.rope(t.x!, t.x!, t.positions!, t.cos!, t.sin!, options),
      )
      add(
        `rope ${width} and ${headDim} more`,
        { y: out([30, width + headDim]), x: { shape: [30, width + headDim] }, ...shared },
        (k, t) => k.rope(t.y!, t.x!, t.positions!, t.cos!, t.sin!, options),
      )
    }
  }
  const widths = floatDtype === 'bf16' ? [5, 67, 768, 1000, 1024, 2048, 4096, 16384, 16385] : [67, 768, 2048]
  for (const D of widths) for (const rows of D <= 768 ? [3, 1031] : [19]) normCases(add, rows, D, D === 67 || D === 768)
  return list
}

function normCases(
  add: (name: string, tensors: Case['tensors'], run: Case['run']) => void,
  rows: number,
  D: number,
  halves: boolean,
): void {
  const x: Spec = { shape: [rows, D], mean: 0.5 }
  const w: Spec = { shape: [D], mean: 1 }
  const row = (rest: Partial<Spec> = {}): Spec => ({ shape: [rows], dtype: 'f32', ...rest })
  const statistics = {
    mean: row({ mean: 0.5 }),
    rstd: row({ values: Array.from({ length: rows }, () => 0.5 + uniform()) }),
  }
  const dw: Spec = { shape: [D], dtype: 'f32' }
  const name = `${rows} x ${D}`
  add(`rmsnorm ${name}`, { y: out([rows, D]), rstd: row({ values: 'poison' }), x, w }, (k, t) =>
    k.rmsnorm(t.y!, t.rstd!, t.x!, t.w!, 1e-5),
  )
  add(
    `layernorm ${name}`,
    { y: out([rows, D]), mean: row({ values: 'poison' }), rstd: row({ values: 'poison' }), x, w, b: { shape: [D] } },
    (k, t) => k.layernorm(t.y!, t.mean!, t.rstd!, t.x!, t.w!, t.b!, 1e-5),
  )
  const dy: Spec = { shape: [rows, D] }
  const gradients = { dx: { shape: [rows, D] }, dw, db: dw, dy, x, w, ...statistics }
  const both = (dx: boolean, dWeight: boolean, dBias: boolean): void => {
    add(`rmsnorm backward ${name} ${dx} ${dWeight}`, gradients, (k, t) =>
      k.rmsnormBackward(t.dx!, t.dw!, t.dy!, t.x!, t.w!, t.rstd!, { dx, dWeight }),
    )
    add(`layernorm backward ${name} ${dx} ${dWeight} ${dBias}`, gradients, (k, t) =>
      k.layernormBackward(t.dx!, t.dw!, t.db!, t.dy!, t.x!, t.w!, t.mean!, t.rstd!, { dx, dWeight, dBias }),
    )
  }
  both(true, false, true)
  if (!halves) return
  both(false, true, false)
  for (const accumulate of [false, true]) {
    add(`rmsnorm backward halves ${name} ${accumulate}`, gradients, (k, t) => {
      k.rmsnormBackwardInput(t.dx!, t.dy!, t.x!, t.w!, t.rstd!, accumulate)
      k.rmsnormBackwardWeight(t.dw!, t.dy!, t.x!, t.rstd!, accumulate)
    })
    add(`layernorm backward halves ${name} ${accumulate}`, gradients, (k, t) => {
      k.layernormBackwardInput(t.dx!, t.dy!, t.x!, t.w!, t.mean!, t.rstd!, accumulate)
      k.layernormBackwardWeight(t.dw!, t.db!, t.dy!, t.x!, t.mean!, t.rstd!, accumulate)
    })
  }
}

async function checkAll(): Promise<void> {
  const all = (['bf16', 'f32', 'f16'] as const).map((dtype) => ({ dtype, cases: casesFor(dtype) }))
  await compileAhead((recorded) => {
    for (const { dtype, cases } of all) {
      const card = { ...device(dtype), allocate: (bytes: number) => ({ bytes, address: 4096 }) } as Device
      for (const { tensors, run } of cases) {
        const given = Object.entries(tensors).map(([key, spec]): [string, Tensor] => {
          const width = spec.shape[spec.shape.length - 1]!
          const shape = [...spec.shape.slice(0, -1), spec.columns?.of ?? width]
          const base = standaloneTensor(card, shape, spec.dtype ?? dtype)
          return [key, spec.columns === undefined ? base : base.columns(spec.columns.from, width)]
        })
        run(recorded, Object.fromEntries(given))
      }
    }
  })
  const kernels = kernelsOf(runtime)
  for (const { dtype, cases } of all) {
    let right = 0
    for (const one of cases) if (await check(kernels, dtype, one)) right++
    console.log(`${dtype}: ${right} of ${cases.length} right`)
  }
  console.log(`deterministic: ${await isDeterministic(kernels)}`)
}

/** The same bits in a second run, eager and from a graph. */
async function isDeterministic(kernels: Kernels): Promise<boolean> {
  const t = tensorsFor(5000, 768)
  const run = () =>
    kernels.layernormBackward(t.b, t.dw, t.db, t.d, t.a, t.w, t.mean, t.rstd, {
      dx: false,
      dWeight: false,
      dBias: false,
    })
  const results: Float64Array[][] = []
  run()
  results.push([await read(t.b), await read(t.dw), await read(t.db)])
  const graph = runtime.capture(run)
  kernels.fill(t.dw, Number.NaN)
  runtime.replay(graph)
  results.push([await read(t.b), await read(t.dw), await read(t.db)])
  return results[0]!.every((values, i) => values.every((value, j) => value === results[1]![i]![j]))
}

// --- time

function tensorsFor(rows: number, columns: number) {
  const card = device('bf16')
  const kernels = kernelsOf(runtime)
  const noise = standaloneTensor(card, [1 << 20], 'f32')
  write(noise, Float64Array.from({ length: 1 << 20 }, normal))
  const tensor = (shape: number[], dtype: Dtype = 'bf16'): Tensor => {
    const made = standaloneTensor(card, shape, dtype)
    const { size } = made
    for (let from = 0; from < size; from += noise.size) {
      const count = Math.min(noise.size, size - from)
      const storage = new Storage(card, 0)
      storage.address = made.address
      kernels.copy(new Tensor([count], dtype, storage, { offset: from }), noise.slice(0, count))
    }
    return made
  }
  const rstd = tensor([rows], 'f32')
  const mean = tensor([rows], 'f32')
  kernels.fill(rstd, 0.9)
  return {
    a: tensor([rows, columns]),
    b: tensor([rows, columns]),
    c: tensor([rows, columns]),
    d: tensor([rows, columns]),
    wide: tensor([rows, 2 * columns]),
    dWide: tensor([rows, 2 * columns]),
    f: tensor([rows, columns], 'f32'),
    w: tensor([columns]),
    bias: tensor([columns]),
    dw: tensor([columns], 'f32'),
    db: tensor([columns], 'f32'),
    mean,
    rstd,
  }
}
type Sample = ReturnType<typeof tensorsFor>

/** Median milliseconds of a call, alternating between sets of tensors so that nothing is left in the cache. */
function median(body: (t: Sample) => void, samples: readonly Sample[]): number {
  for (const sample of samples) body(sample)
  const times: number[] = []
  for (let i = 0; i < 15; i++) {
    times.push(
      runtime.time(() => {
        for (const sample of samples) body(sample)
        for (const sample of samples) body(sample)
      }) /
        (2 * samples.length),
    )
  }
  return times.sort((a, b) => a - b)[7]!
}

function report(name: string, bytes: number, ms: number): void {
  const rate = bytes / (ms / 1e3)
  console.log(
    `${name.padEnd(44)} ${(ms * 1e3).toFixed(1).padStart(8)} us ${(rate / 1e9).toFixed(0).padStart(6)} GB/s ${((100 * rate) / PRACTICAL).toFixed(1).padStart(6)} %`,
  )
}

const SHAPES = [
  [65536, 768],
  [16384, 2048],
  [8192, 4096],
] as const

async function timeAll(): Promise<void> {
  const kernels = kernelsOf(runtime)
  for (const [rows, columns] of SHAPES) {
    const samples = [tensorsFor(rows, columns), tensorsFor(rows, columns)]
    const half = rows * columns * 2
    const positions = standaloneTensor(device('bf16'), [rows], 'i32')
    write(
      positions,
      Float64Array.from({ length: rows }, (_, i) => i % 1024),
    )
    const table = (): Tensor => {
      const made = standaloneTensor(device('bf16'), [1024, 32], 'f32')
      write(made, Float64Array.from({ length: 1024 * 32 }, normal))
      return made
    }
    const [cos, sin] = [table(), table()]
    console.log(`\n${rows} x ${columns} bf16, of ${PRACTICAL / 1e12} TB/s`)
    const row = (name: string, bytes: number, body: (k: Kernels, t: Sample) => void): void => {
      try {
        report(
          name,
          bytes,
          median((t) => body(kernels, t), samples),
        )
      } catch (error) {
        console.log(`FAIL ${name}: ${(error as Error).message.slice(0, 300)}`)
      }
    }
    const all = { dx: true, dWeight: true, dBias: true }
    row('fill', half, (k, t) => k.fill(t.a, 0.25))
    row('copy', 2 * half, (k, t) => k.copy(t.b, t.a))
    row('copy to f32', 3 * half, (k, t) => k.copy(t.f, t.a))
    row('copy from f32', 3 * half, (k, t) => k.copy(t.b, t.f))
    row('add', 3 * half, (k, t) => k.add(t.c, t.a, t.b))
    row('accumulate', 3 * half, (k, t) => k.accumulate(t.c, t.a))
    row('accumulate into f32', 5 * half, (k, t) => k.accumulate(t.f, t.a))
    row('sumRows', half, (k, t) => k.sumRows(t.dw, t.a, true))
    row('rmsnorm', 2 * half, (k, t) => k.rmsnorm(t.b, t.rstd, t.a, t.w, 1e-5))
    row('layernorm', 2 * half, (k, t) => k.layernorm(t.b, t.mean, t.rstd, t.a, t.w, t.bias, 1e-5))
    row('rmsnormBackward, accumulating', 4 * half, (k, t) => k.rmsnormBackward(t.c, t.dw, t.d, t.a, t.w, t.rstd, all))
    row('layernormBackward, accumulating', 4 * half, (k, t) =>
      k.layernormBackward(t.c, t.dw, t.db, t.d, t.a, t.w, t.mean, t.rstd, all),
    )
    row('layernormBackwardInput, accumulating', 4 * half, (k, t) =>
      k.layernormBackwardInput(t.c, t.d, t.a, t.w, t.mean, t.rstd, true),
    )
    row('swiglu', 3 * half, (k, t) => k.swiglu(t.a, t.wide))
    row('swigluBackward', 5 * half, (k, t) => k.swigluBackward(t.dWide, t.d, t.wide))
    for (const kind of ['tanh', 'none'] as const) {
      row(`gelu ${kind}`, 2 * half, (k, t) => k.gelu(t.b, t.a, kind))
      row(`geluBackward ${kind}`, 3 * half, (k, t) => k.geluBackward(t.b, t.d, t.a, kind))
    }
    row('rope, heads of 64, in place', 2 * half, (k, t) =>
      k.rope(t.a, t.a, positions, cos, sin, { numHeads: columns / 64, headDim: 64, inverse: false }),
    )
    for (const t of samples) for (const tensor of Object.values(t)) runtime.free(tensor.storage.address)
  }
}

const wanted = process.argv.slice(2)
const isWanted = (part: string): boolean => wanted.length === 0 || wanted.includes(part)
for (const [part, body] of [
  ['check', checkAll],
  ['time', timeAll],
] as const) {
  if (!isWanted(part)) continue
  try {
    await body()
  } catch (error) {
    console.log(`FAIL ${part}: ${(error as Error).stack?.slice(0, 800)}`)
  }
}
process.exit(0)
