// What the bench of matrix products is built from: the card without the rest of the device, tensors on it, and their values
// on the host as float64.
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import koffi from 'koffi'
import { CublasLt } from '../../src/backends/cuda/cublaslt.ts'
import { CudaDriver } from '../../src/backends/cuda/driver.ts'
import { elementwiseKernels } from '../../src/backends/cuda/elementwise.ts'
import { CudaMatmul } from '../../src/backends/cuda/matmul.ts'
import { KernelCompiler } from '../../src/backends/cuda/nvrtc.ts'
import { CudaRuntime, cardAt } from '../../src/backends/cuda/runtime.ts'
import type { Device } from '../../src/core/device.ts'
import { DTYPE_BYTES, type Dtype, type HostArray, hostArray } from '../../src/core/dtype.ts'
import { Storage, Tensor } from '../../src/core/tensor.ts'
import { findLibraries } from '../../src/machine/libraries.ts'

const cacheDir = process.argv[2] ?? mkdtempSync(join(tmpdir(), 'matmul-'))
const libraries = await findLibraries(process.env)
export const driver = new CudaDriver(libraries.cuda!.path)
export const runtime = new CudaRuntime(
  driver,
  new KernelCompiler(libraries.nvrtc!.path, join(cacheDir, 'kernels')),
  cardAt(driver, 0),
)
export const lt = new CublasLt(libraries.cublasLt!.path, driver, runtime.stream)
const elementwise = elementwiseKernels(runtime)

/** A product with plans of its own; all of them share the choices on disk. */
export function openMatmul(): CudaMatmul {
  return new CudaMatmul(runtime, lt, elementwise.sumRows, { cacheDir })
}

/** A tensor at an address, for calls whose values nobody looks at. */
export function tensorAt(address: number, shape: readonly number[], dtype: Dtype): Tensor {
  const storage = new Storage(
    device,
    shape.reduce((size, n) => size * n, DTYPE_BYTES[dtype]),
  )
  storage.bind({ bytes: storage.bytes, address }, 0)
  return new Tensor(shape, dtype, storage)
}

const device = { name: 'cuda:0', floatDtype: 'bf16', itemBytes: (dtype: Dtype) => DTYPE_BYTES[dtype] } as Device
const allocations: number[] = []

export function tensor(shape: number[], dtype: Dtype, of = shape[1]!, from = 0): Tensor {
  const storage = new Storage(device, shape[0]! * of * DTYPE_BYTES[dtype])
  const address = runtime.allocate(storage.bytes)
  allocations.push(address)
  storage.bind({ bytes: storage.bytes, address }, 0)
  const whole = new Tensor([shape[0]!, of], dtype, storage)
  return of === shape[1]! && from === 0 ? whole : whole.columns(from, shape[1]!)
}

export function freeAll(): void {
  runtime.synchronize()
  for (const address of allocations.splice(0)) runtime.free(address)
}

function addressOf(array: HostArray): number {
  return Number(koffi.address(array as never))
}

/** The words of a whole storage. */
export function rawOf(x: Tensor): HostArray {
  const raw = hostArray(x.dtype, x.storage.bytes / DTYPE_BYTES[x.dtype])
  driver.call('cuMemcpyDtoHAsync_v2', addressOf(raw), x.storage.address, x.storage.bytes, runtime.stream)
  runtime.synchronize()
  return raw
}

/** The whole storage of a tensor, with what lies beside a slice. */
export function readWhole(x: Tensor): Float64Array {
  const raw = rawOf(x)
  const decode = DECODERS[x.dtype]!
  return Float64Array.from(raw, decode)
}

export function writeWhole(x: Tensor, values: Float64Array): void {
  const encode = ENCODERS[x.dtype]!
  const raw = hostArray(x.dtype, values.length)
  for (let i = 0; i < values.length; i++) raw[i] = encode(values[i]!)
  driver.call('cuMemcpyHtoDAsync_v2', x.storage.address, addressOf(raw), x.storage.bytes, runtime.stream)
  runtime.synchronize()
}

const word = new DataView(new ArrayBuffer(4))
function toBf16(value: number): number {
  word.setFloat32(0, value)
  const bits = word.getUint32(0)
  if (Number.isNaN(value)) return 0x7fc0
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}
function fromBf16(bits: number): number {
  word.setUint32(0, bits * 65536)
  return word.getFloat32(0)
}
export function fromSmallFloat(bits: number, exponentBits: number, mantissaBits: number): number {
  const sign = bits >> (exponentBits + mantissaBits) === 0 ? 1 : -1
  const exponent = (bits >> mantissaBits) & (2 ** exponentBits - 1)
  const mantissa = (bits & (2 ** mantissaBits - 1)) / 2 ** mantissaBits
  const bias = 2 ** (exponentBits - 1) - 1
  if (exponent === 2 ** exponentBits - 1 && exponentBits === 5) return mantissa === 0 ? sign * Infinity : Number.NaN
  return exponent === 0 ? sign * mantissa * 2 ** (1 - bias) : sign * (1 + mantissa) * 2 ** (exponent - bias)
}
/** The nearest, by trying: inputs of the checks are few. */
function toF16(value: number): number {
  if (Number.isNaN(value)) return 0x7e00
  const sign = value < 0 ? 0x8000 : 0
  const size = Math.abs(value)
  const exponent = Math.max(-14, Math.floor(Math.log2(size || 2 ** -30)))
  const steps = Math.round(size / 2 ** (exponent - 10))
  return sign | (exponent === -14 && steps < 1024 ? steps : (exponent + 14) * 1024 + steps)
}
const same = (value: number) => value
const DECODERS: Partial<Record<Dtype, (raw: number) => number>> = {
  f32: same,
  u8: same,
  bf16: fromBf16,
  f16: (raw) => fromSmallFloat(raw, 5, 10),
}
const ENCODERS: Partial<Record<Dtype, (value: number) => number>> = { f32: same, u8: same, bf16: toBf16, f16: toF16 }

let seed = 1
export function normals(count: number): Float64Array {
  const uniform = () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) | 0
    return ((seed >>> 8) + 0.5) / 2 ** 24
  }
  return Float64Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(uniform()))
    return radius * Math.cos(2 * Math.PI * uniform())
  })
}

export function random(shape: number[], dtype: Dtype, of?: number, from?: number): Tensor {
  const x = tensor(shape, dtype, of, from)
  writeWhole(x, normals(x.storage.bytes / DTYPE_BYTES[dtype]))
  return x
}
export function poisoned(shape: number[], dtype: Dtype, of?: number, from?: number): Tensor {
  const x = tensor(shape, dtype, of, from)
  writeWhole(x, new Float64Array(x.storage.bytes / DTYPE_BYTES[dtype]).fill(Number.NaN))
  return x
}

/** Elements of a tensor on the host. */
export function elementsOf(x: Tensor): (i: number, j: number) => number {
  const raw = rawOf(x)
  const decode = DECODERS[x.dtype]!
  return (i, j) => decode(raw[x.offset + i * x.rowStride + j]!)
}

/** About normal values from the card. */
export function fillWithNoise(x: Tensor, seed: number): void {
  runtime.kernel('matmul', 'matmul_noise', 'plu', { dtype: x.dtype })(1024, 256, x.address, x.size, seed)
}

/** Whether two tensors have the same bits. */
export function areSame(one: Tensor, other: Tensor): boolean {
  const [a, b] = [rawOf(one), rawOf(other)].map(({ buffer }) => Buffer.from(buffer))
  return Buffer.compare(a!, b!) === 0
}
