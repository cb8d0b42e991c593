// cuDNN's attention through our own graphs: correctness against float64 on the host, then TFLOP/s of training shapes.
//   node bench/gpu/attention-cudnn.ts [check] [time]
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import koffi from 'koffi'
import { attentionCudnn } from '../../src/backends/cuda/attention-cudnn.ts'
import { CudnnLibrary, cudnnVersionText } from '../../src/backends/cuda/cudnn.ts'
import { CudaDriver } from '../../src/backends/cuda/driver.ts'
import { KernelCompiler } from '../../src/backends/cuda/nvrtc.ts'
import { CudaRuntime, cardAt } from '../../src/backends/cuda/runtime.ts'
import type { Device } from '../../src/core/device.ts'
import { DTYPE_BYTES, type Dtype } from '../../src/core/dtype.ts'
import type { AttentionOptions } from '../../src/core/kernels.ts'
import { Storage, sizeOf, Tensor } from '../../src/core/tensor.ts'
import { findLibraries } from '../../src/machine/libraries.ts'

interface Problem {
  readonly batch: number
  readonly heads: number
  readonly keyValueHeads: number
  readonly length: number
  readonly headDim: number
  readonly isCausal: boolean
  readonly dtype: 'bf16' | 'f16'
}

const CHECKS: readonly Problem[] = [
  { batch: 2, heads: 3, keyValueHeads: 3, length: 128, headDim: 64, isCausal: true, dtype: 'bf16' },
  { batch: 2, heads: 3, keyValueHeads: 1, length: 130, headDim: 64, isCausal: true, dtype: 'bf16' },
  { batch: 2, heads: 3, keyValueHeads: 3, length: 130, headDim: 128, isCausal: false, dtype: 'f16' },
  { batch: 2, heads: 3, keyValueHeads: 1, length: 128, headDim: 128, isCausal: true, dtype: 'f16' },
  { batch: 1, heads: 4, keyValueHeads: 2, length: 257, headDim: 96, isCausal: true, dtype: 'bf16' },
  { batch: 1, heads: 2, keyValueHeads: 2, length: 192, headDim: 256, isCausal: true, dtype: 'bf16' },
]
const TIMED: readonly Problem[] = [
  { batch: 32, heads: 12, keyValueHeads: 12, length: 1024, headDim: 64, isCausal: true, dtype: 'bf16' },
  { batch: 4, heads: 16, keyValueHeads: 16, length: 4096, headDim: 128, isCausal: true, dtype: 'bf16' },
  { batch: 1, heads: 16, keyValueHeads: 16, length: 16384, headDim: 128, isCausal: true, dtype: 'bf16' },
  { batch: 4, heads: 32, keyValueHeads: 8, length: 4096, headDim: 128, isCausal: true, dtype: 'bf16' },
]
const REPEATS = 10
/** Calls between two events: the card must not wait for the host. */
const CALLS = 5
/** Elements of random values that large tensors repeat; no multiple of a row. */
const RANDOM_BLOCK = (1 << 21) + 12347

const parts = process.argv.slice(2)
const wants = (part: string): boolean => parts.length === 0 || parts.includes(part)
const found = await findLibraries(process.env, ['cuda', 'nvrtc', 'cublasLt', 'cudnn'])
if (found.cuda === undefined || found.nvrtc === undefined || found.cudnn === undefined) {
  throw new Error('the NVIDIA driver, NVRTC and cuDNN are needed')
}
const driver = new CudaDriver(found.cuda.path)
const compiler = new KernelCompiler(found.nvrtc.path, mkdtempSync(join(tmpdir(), 'attention-cudnn-')))
const runtime = new CudaRuntime(driver, compiler, cardAt(driver, 0))
const library = new CudnnLibrary(found.cudnn.path)
console.log(`${runtime.card.name}, cuDNN at ${library.path} (${found.cudnn.origin})`)
if (library.problem !== undefined) throw new Error(library.problem)
console.log(`cuDNN ${cudnnVersionText(library.version)}`)

const device = { itemBytes: (dtype: Dtype) => DTYPE_BYTES[dtype] } as Device
let failures = 0

/** Memory of a tensor, filled with 0x7f (NaN or huge numbers) until something is written. */
function tensor(shape: number[], dtype: Dtype): Tensor {
  const bytes = sizeOf(shape) * DTYPE_BYTES[dtype]
  const storage = new Storage(device, bytes)
  storage.address = runtime.allocate(bytes)
  driver.call('cuMemsetD8Async', storage.address, 0x7f, bytes, runtime.stream)
  return new Tensor(shape, dtype, storage)
}

/** Only for arrays of their own, which stay where they are. */
function hostAddress(array: Uint8Array | Uint16Array): number {
  return Number(koffi.address(array as never))
}

function free(...tensors: Tensor[]): void {
  runtime.synchronize()
  for (const { storage } of tensors) runtime.free(storage.address)
}

let randomState = 12345
function random(): number {
  randomState = (Math.imul(randomState, 1664525) + 1013904223) >>> 0
  return (randomState + 0.5) / 2 ** 32
}
function normal(): number {
  return Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random())
}

const word = new Float32Array(1)
const wordBits = new Uint32Array(word.buffer)
const half = new Float16Array(1)
const halfBits = new Uint16Array(half.buffer)

/** Rounds to the element type; returns its bits. */
function encode(value: number, dtype: Dtype): number {
  if (dtype === 'f16') {
    half[0] = value
    return halfBits[0]!
  }
  word[0] = value
  const bits = wordBits[0]!
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

function decode(bits: number, dtype: Dtype): number {
  if (dtype === 'f16') {
    halfBits[0] = bits
    return half[0]!
  }
  wordBits[0] = bits << 16
  return word[0]!
}

/** Writes normal values; returns what was written. */
function fill(target: Tensor): Float64Array {
  const { size, dtype } = target
  const bits = new Uint16Array(Math.min(size, RANDOM_BLOCK))
  for (let n = 0; n < bits.length; n++) bits[n] = encode(normal(), dtype)
  for (let from = 0; from < size; from += bits.length) {
    const count = Math.min(bits.length, size - from)
    driver.call('cuMemcpyHtoDAsync_v2', target.address + from * 2, hostAddress(bits), count * 2, runtime.stream)
  }
  runtime.synchronize()
  return Float64Array.from(bits, (value) => decode(value, dtype))
}

function readBytes(source: Tensor): Uint8Array {
  const bytes = new Uint8Array(source.size * DTYPE_BYTES[source.dtype])
  driver.call('cuMemcpyDtoHAsync_v2', hostAddress(bytes), source.address, bytes.length, runtime.stream)
  runtime.synchronize()
  return bytes
}

function read(source: Tensor): Float64Array {
  const { buffer } = readBytes(source)
  return source.dtype === 'f32'
    ? Float64Array.from(new Float32Array(buffer))
    : Float64Array.from(new Uint16Array(buffer), (bits) => decode(bits, source.dtype))
}

function optionsOf({ heads, keyValueHeads, headDim, isCausal }: Problem): AttentionOptions {
  const scale = 1 / Math.sqrt(headDim)
  return { numHeads: heads, numKeyValueHeads: keyValueHeads, headDim, scale, isCausal, window: 0 }
}

/** q, k and v as column slices of one buffer, and their gradients in another, as a model has them. */
function makeTensors({ batch, heads, keyValueHeads, length, headDim, dtype }: Problem) {
  const [width, keyWidth] = [heads * headDim, keyValueHeads * headDim]
  const qkv = tensor([batch, length, width + 2 * keyWidth], dtype)
  const dQkv = tensor([batch, length, width + 2 * keyWidth], dtype)
  const out = tensor([batch, length, width], dtype)
  const dOut = tensor([batch, length, width], dtype)
  const lse = tensor([batch, heads, length], 'f32')
  const delta = tensor([batch, heads, length], 'f32')
  const split = (x: Tensor) =>
    [x.columns(0, width), x.columns(width, keyWidth), x.columns(width + keyWidth, keyWidth)] as const
  return { qkv, dQkv, out, dOut, lse, delta, inputs: split(qkv), gradients: split(dQkv) }
}

type Tensors = ReturnType<typeof makeTensors>
type Attention = ReturnType<typeof attentionCudnn>

function forward(attention: Attention, { out, lse, inputs }: Tensors, options: AttentionOptions): void {
  attention.attention(out, lse, ...inputs, options)
}

function backward(attention: Attention, tensors: Tensors, options: AttentionOptions): void {
  const { out, dOut, lse, delta, inputs, gradients } = tensors
  attention.attentionBackward(...gradients, delta, dOut, out, lse, ...inputs, options)
}

/** out, lse and the gradients of q, k, v in float64. */
function referenceOf(problem: Problem, qkv: Float64Array, dOut: Float64Array) {
  const { batch, heads, keyValueHeads, length, headDim, isCausal } = problem
  const [width, keyWidth] = [heads * headDim, keyValueHeads * headDim]
  const row = width + 2 * keyWidth
  const scale = 1 / Math.sqrt(headDim)
  const out = new Float64Array(batch * length * width)
  const lse = new Float64Array(batch * heads * length)
  const dQkv = new Float64Array(qkv.length)
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const keyHead = Math.floor(h / (heads / keyValueHeads)) * headDim
      for (let i = 0; i < length; i++) {
        const seen = isCausal ? i + 1 : length
        const q = (b * length + i) * row + h * headDim
        const o = (b * length + i) * width + h * headDim
        const p = new Float64Array(seen)
        for (let j = 0; j < seen; j++) {
          const k = (b * length + j) * row + width + keyHead
          for (let d = 0; d < headDim; d++) p[j]! += qkv[q + d]! * qkv[k + d]! * scale
        }
        const max = p.reduce((a, c) => Math.max(a, c), Number.NEGATIVE_INFINITY)
        const sum = p.reduce((a, c) => a + Math.exp(c - max), 0)
        lse[(b * heads + h) * length + i] = max + Math.log(sum)
        let delta = 0
        const dP = new Float64Array(seen)
        for (let j = 0; j < seen; j++) {
          p[j] = Math.exp(p[j]! - max) / sum
          const v = (b * length + j) * row + width + keyWidth + keyHead
          for (let d = 0; d < headDim; d++) {
            out[o + d]! += p[j]! * qkv[v + d]!
            dP[j]! += dOut[o + d]! * qkv[v + d]!
            dQkv[v + d]! += p[j]! * dOut[o + d]!
          }
          delta += p[j]! * dP[j]!
        }
        for (let j = 0; j < seen; j++) {
          const k = (b * length + j) * row + width + keyHead
          const dScore = p[j]! * (dP[j]! - delta) * scale
          for (let d = 0; d < headDim; d++) {
            dQkv[q + d]! += dScore * qkv[k + d]!
            dQkv[k + d]! += dScore * qkv[q + d]!
          }
        }
      }
    }
  }
  return { out, lse, dQkv }
}

/** ||x - y|| / ||y|| over the columns [from, to) of rows of `width`. */
function distance(x: Float64Array, y: Float64Array, width = 1, from = 0, to = width): number {
  let [difference, norm] = [0, 0]
  for (let n = 0; n < y.length; n++) {
    const column = n % width
    if (column < from || column >= to) continue
    difference += (x[n]! - y[n]!) ** 2
    norm += y[n]! ** 2
  }
  return Math.sqrt(difference / norm)
}

function nameOf({ batch, heads, keyValueHeads, length, headDim, isCausal, dtype }: Problem): string {
  return `${dtype} B${batch} H${heads}/${keyValueHeads} T${length} D${headDim} ${isCausal ? 'causal' : 'full'}`
}

function verdict(text: string, errors: Record<string, number>, limits: Record<string, number>): void {
  const isGood = Object.entries(errors).every(([name, error]) => error <= limits[name]!)
  if (!isGood) failures++
  const shown = Object.entries(errors).map(([name, error]) => `${name} ${error.toExponential(2)}`)
  console.log(`${isGood ? 'ok  ' : 'FAIL'} ${text}: ${shown.join(', ')}`)
}

/** Runs `body`; a failure is a line, not the end. */
function attempt(text: string, body: () => void): void {
  try {
    body()
  } catch (error) {
    failures++
    console.log(`FAIL ${text}: ${error instanceof Error ? error.message : error}`)
  }
}

function check(problem: Problem, isDeterministic: boolean): void {
  const attention = attentionCudnn(runtime, library, { isDeterministic })
  const options = optionsOf(problem)
  const tensors = makeTensors(problem)
  const { qkv, dQkv, out, dOut, lse, delta, inputs } = tensors
  const [width, keyWidth] = [problem.heads * problem.headDim, problem.keyValueHeads * problem.headDim]
  const row = width + 2 * keyWidth
  const expected = referenceOf(problem, fill(qkv), fill(dOut))
  const text = `${nameOf(problem)} ${isDeterministic ? 'deterministic' : 'any order'}`
  if (attention.supports(...inputs, options)) {
    forward(attention, tensors, options)
    const errors = { out: distance(read(out), expected.out), lse: distance(read(lse), expected.lse) }
    verdict(`${text} forward`, errors, { out: 4e-3, lse: 1e-3 })
  } else console.log(`none ${text} forward`)
  if (attention.supportsBackward(...inputs, options)) {
    backward(attention, tensors, options)
    const got = read(dQkv)
    const errors = {
      dq: distance(got, expected.dQkv, row, 0, width),
      dk: distance(got, expected.dQkv, row, width, width + keyWidth),
      dv: distance(got, expected.dQkv, row, width + keyWidth, row),
    }
    verdict(`${text} backward`, errors, { dq: 1e-2, dk: 1e-2, dv: 1e-2 })
  } else console.log(`none ${text} backward`)
  free(qkv, dQkv, out, dOut, lse, delta)
}

/** Two runs of the gradients with the same bits, one of them replayed from a recorded graph. */
function checkRecording(problem: Problem): void {
  const attention = attentionCudnn(runtime, library, { isDeterministic: true })
  const options = optionsOf(problem)
  const tensors = makeTensors(problem)
  fill(tensors.qkv)
  fill(tensors.dOut)
  const step = (): void => {
    forward(attention, tensors, options)
    backward(attention, tensors, options)
  }
  step()
  const [eagerOut, eager] = [readBytes(tensors.out), readBytes(tensors.dQkv)]
  const graph = runtime.capture(step)
  for (const { storage } of [tensors.out, tensors.dQkv]) {
    driver.call('cuMemsetD8Async', storage.address, 0x7f, storage.bytes, runtime.stream)
  }
  runtime.replay(graph)
  const isSame =
    Buffer.compare(eagerOut, readBytes(tensors.out)) === 0 && Buffer.compare(eager, readBytes(tensors.dQkv)) === 0
  if (!isSame) failures++
  console.log(`${isSame ? 'ok  ' : 'FAIL'} ${nameOf(problem)} deterministic: replayed graph has the eager run's bits`)
  free(tensors.qkv, tensors.dQkv, tensors.out, tensors.dOut, tensors.lse, tensors.delta)
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!
}

/** Median milliseconds on the card, and microseconds of the host for each call. */
function measure(body: () => void): { ms: number; hostMicroseconds: number } {
  body()
  const calls = (): void => {
    for (let n = 0; n < CALLS; n++) body()
  }
  const times = Array.from({ length: REPEATS }, () => runtime.time(calls) / CALLS)
  runtime.synchronize()
  const start = performance.now()
  for (let n = 0; n < REPEATS; n++) body()
  const hostMicroseconds = ((performance.now() - start) / REPEATS) * 1e3
  runtime.synchronize()
  return { ms: median(times), hostMicroseconds }
}

function time(problem: Problem): void {
  const options = optionsOf(problem)
  const tensors = makeTensors(problem)
  fill(tensors.qkv)
  fill(tensors.dOut)
  const { batch, heads, length, headDim } = problem
  const flops = (4 * batch * heads * length * length * headDim) / 2
  const report = (what: string, factor: number, body: () => void): void => {
    const begin = performance.now()
    body()
    runtime.synchronize()
    const firstMs = performance.now() - begin
    const { ms, hostMicroseconds } = measure(body)
    const rate = (flops * factor) / ms / 1e9
    console.log(
      `     ${nameOf(problem)} ${what}: ${ms.toFixed(3)} ms, ${rate.toFixed(0)} TFLOP/s; host ${hostMicroseconds.toFixed(1)} us a call, first ${firstMs.toFixed(0)} ms`,
    )
  }
  for (const isDeterministic of [false, true]) {
    const attention = attentionCudnn(runtime, library, { isDeterministic })
    if (!isDeterministic && attention.supports(...tensors.inputs, options)) {
      report(`forward`, 1, () => forward(attention, tensors, options))
    }
    if (!attention.supportsBackward(...tensors.inputs, options)) continue
    const mib = (attention.backwardBytes(...tensors.inputs, options) / 2 ** 20).toFixed(0)
    report(`backward ${isDeterministic ? 'deterministic' : 'any order'}, scratch ${mib} MiB`, 2.5, () =>
      backward(attention, tensors, options),
    )
  }
  free(tensors.qkv, tensors.dQkv, tensors.out, tensors.dOut, tensors.lse, tensors.delta)
}

if (wants('check')) {
  for (const problem of CHECKS) {
    for (const isDeterministic of [false, true]) attempt(nameOf(problem), () => check(problem, isDeterministic))
  }
  attempt('recording', () => checkRecording(CHECKS[3]!))
}
if (wants('time')) for (const problem of TIMED) attempt(nameOf(problem), () => time(problem))
console.log(failures === 0 ? 'all good' : `${failures} failures`)
process.exitCode = failures === 0 ? 0 : 1
