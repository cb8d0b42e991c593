// The CUDA device: memory of a card, copies through pinned memory in the order of the stream, recordings, and the kernels
// of all families. Finding libraries and deciding what a card can do is open-cuda.ts's.
import type { DecodePlan, DecodeStep } from '../../core/decode-plan.ts'
import type { Device, DeviceBuffer, DeviceMemory, Recording, TrainingShape } from '../../core/device.ts'
import { DTYPE_BYTES, type Dtype, type HostArray, hostArray } from '../../core/dtype.ts'
import { invariant, ShapeError } from '../../core/errors.ts'
import type { Fp8Kernels, Fp8Scaling } from '../../core/fp8.ts'
import type { Kernels } from '../../core/kernels.ts'
import { Storage, show, Tensor } from '../../core/tensor.ts'
import type { VanillaAttentionParts } from '../../core/vanilla-attention.ts'
import { activationKernels } from './activation.ts'
import { type AttentionChoice, attentionKernels } from './attention.ts'
import { vanillaAttentionParts } from './attention-vanilla.ts'
import { type CublasLt, ltVersionText } from './cublaslt.ts'
import { type CudnnLibrary, cudnnVersionText } from './cudnn.ts'
import { decodeKernels } from './decode.ts'
import { decodeStep } from './decode-step.ts'
import { versionText } from './driver.ts'
import { elementwiseKernels } from './elementwise.ts'
import { embeddingKernels, embeddingScratchBytes } from './embedding.ts'
import { expectFp8, fp8Kernels } from './fp8.ts'
import { HostLink } from './host-link.ts'
import { lossKernels } from './loss.ts'
import { CudaMatmul } from './matmul.ts'
import { normKernels } from './norm.ts'
import { optimizerKernels } from './optimizer.ts'
import { randomKernels } from './random.ts'
import type { CardProperties, CudaRuntime } from './runtime.ts'

/**
 * Element type of activations and of the weights that ops read; masters, gradients and states are f32 with all of them.
 * fp8: as bf16, and the layers' products of training have factors in 8 bits.
 */
export type CudaPrecision = 'bf16' | 'f16' | 'f32' | 'fp8'

/** Half a gigabyte in 16 bits: 8192 rows and more of a vocabulary of 50 000. */
const LOGITS_CHUNK_ELEMENTS = 1 << 29
/** What NVRTC, cuBLASLt and the driver take from the process: 176 to 196 MiB in short runs on an H100, 236 in one of 1200 steps. */
const LIBRARY_BYTES = 200 << 20
/** What modules and graphs take from the card beside tensors and scratch: 4 to 10 MiB were measured on an H100. */
const OWN_LIBRARY_BYTES = 8 << 20
/** Rows of the largest tile of attention's backward. */
const ATTENTION_TILE = 128
/** Partial sums of norms, biases and losses. */
const SMALL_SCRATCH_BYTES = 16 << 20
/** Rows and columns of the product that stands for the card's peak. */
const PEAK_SIZE = 8192

class CudaBuffer implements DeviceBuffer {
  readonly bytes: number
  readonly address: number

  constructor(bytes: number, address: number) {
    this.bytes = bytes
    this.address = address
  }
}

export interface CudaDeviceParts {
  readonly runtime: CudaRuntime
  readonly lt: CublasLt
  readonly cacheDir: string
  readonly cudnn: CudnnLibrary | undefined
  readonly precision: CudaPrecision
  /** How factors in fp8 are scaled. */
  readonly fp8Scaling: Fp8Scaling
  readonly attention: AttentionChoice
  readonly isDeterministic: boolean
}

export class CudaDevice implements Device {
  readonly name: string
  readonly floatDtype: Dtype
  readonly masterDtype = 'f32'
  readonly logitsChunkElements = LOGITS_CHUNK_ELEMENTS
  readonly libraryBytes = LIBRARY_BYTES
  readonly ownLibraryBytes = OWN_LIBRARY_BYTES
  readonly kernels: Kernels
  readonly fp8: Fp8Kernels | undefined
  readonly precision: CudaPrecision
  readonly runtime: CudaRuntime
  readonly matmul: CudaMatmul
  readonly #lt: CublasLt
  readonly #cudnn: CudnnLibrary | undefined
  readonly #link: HostLink
  readonly #unreachable: FinalizationRegistry<number>
  readonly #released = new WeakSet<DeviceBuffer>()
  /** Addresses of tensors' memory that has not been given back. */
  readonly #live = new Set<number>()
  /** Bytes that tensors hold now, and held at most. */
  allocatedBytes = 0
  peakBytes = 0
  #isClosed = false

  constructor({ runtime, lt, cacheDir, cudnn, precision, fp8Scaling, attention, isDeterministic }: CudaDeviceParts) {
    if (precision === 'fp8') expectFp8(runtime, fp8Scaling)
    this.runtime = runtime
    this.precision = precision
    this.#lt = lt
    this.#cudnn = cudnn
    this.name = `cuda:${runtime.card.index}`
    this.floatDtype = precision === 'fp8' ? 'bf16' : precision
    this.#link = new HostLink(runtime)
    this.#unreachable = new FinalizationRegistry((address) => this.#free(address))
    const elementwise = elementwiseKernels(runtime)
    this.matmul = new CudaMatmul(runtime, lt, elementwise.sumRows, { cacheDir })
    this.fp8 = precision === 'fp8' ? fp8Kernels(runtime, this.matmul, fp8Scaling) : undefined
    this.kernels = {
      ...elementwise,
      ...this.matmul.kernels,
      ...activationKernels(runtime),
      ...normKernels(runtime),
      ...embeddingKernels(runtime),
      ...attentionKernels(runtime, { cudnn, choice: attention, isDeterministic }),
      ...decodeKernels(runtime),
      ...lossKernels(runtime),
      ...randomKernels(runtime),
      ...optimizerKernels(runtime),
    }
  }

  itemBytes(dtype: Dtype): number {
    return DTYPE_BYTES[dtype]
  }

  allocate(bytes: number): DeviceBuffer {
    const address = this.runtime.allocate(bytes)
    const buffer = new CudaBuffer(bytes, address)
    this.#live.add(address)
    this.allocatedBytes += bytes
    this.peakBytes = Math.max(this.peakBytes, this.allocatedBytes)
    this.#unreachable.register(buffer, address, buffer)
    return buffer
  }

  release(buffer: DeviceBuffer): void {
    if (this.#released.has(buffer)) return
    this.#released.add(buffer)
    this.#unreachable.unregister(buffer)
    this.allocatedBytes -= buffer.bytes
    this.#free(buffer.address)
  }

  #free(address: number): void {
    if (this.#live.delete(address)) this.runtime.free(address)
  }

  /**
   * Copies host values into a contiguous tensor, in the order of the kernels. 16-bit floats are taken as raw bits from a
   * Uint16Array, and rounded on the card from anything else.
   * @throws ShapeError when the number of values is not the tensor's
   */
  write(tensor: Tensor, values: ArrayLike<number>): void {
    invariant(tensor.isContiguous, 'a column slice cannot be copied from the host, copy it on the device')
    if (values.length !== tensor.size) {
      throw new ShapeError(`write: a tensor ${show(tensor.shape)} takes ${tensor.size} values, got ${values.length}`)
    }
    const isHalf = tensor.dtype === 'bf16' || tensor.dtype === 'f16'
    if (!isHalf || values instanceof Uint16Array) {
      this.#link.write(tensor.address, asElements(tensor.dtype, values))
      return
    }
    const floats = asElements('f32', values)
    const storage = new Storage(this, floats.byteLength)
    const buffer = this.allocate(Math.max(floats.byteLength, 256))
    storage.bind(buffer, 0)
    const wide = new Tensor(tensor.shape, 'f32', storage)
    this.#link.write(wide.address, floats)
    this.kernels.copy(tensor, wide)
    this.runtime.synchronize()
    this.release(buffer)
  }

  async read(tensor: Tensor): Promise<HostArray> {
    invariant(tensor.isContiguous, 'a column slice cannot be copied to the host, copy it on the device first')
    const values = hostArray(tensor.dtype, tensor.size)
    await this.#link.read(values, tensor.address)
    return values
  }

  /** The largest of attention's sums of dq with its statistics, the sorted ids of the embedding, and what the other kernels need. */
  kernelScratchBytes({ microBatchSize, seqLen, numAttentionHeads, headDim, ...shape }: TrainingShape): number {
    const panels = Math.ceil(headDim / 64) * 64
    const tiles = Math.ceil(seqLen / ATTENTION_TILE) * numAttentionHeads * microBatchSize
    const attention = this.floatDtype === 'f32' ? 0 : tiles * (ATTENTION_TILE * (4 * panels + 16) + 16) + 256
    const embedding = embeddingScratchBytes(microBatchSize * seqLen, shape.hiddenSize, shape.vocabSize)
    return Math.ceil(Math.max(attention, embedding, SMALL_SCRATCH_BYTES) / 2 ** 20) * 2 ** 20
  }

  reserveScratch(bytes: number): void {
    this.runtime.reserveScratch(bytes)
  }

  ownMemory(): DeviceMemory {
    const { free, total } = this.runtime.memory()
    const { scratchBytes } = this.runtime
    return { freeBytes: free, totalBytes: total, tensorBytes: this.allocatedBytes, scratchBytes }
  }

  decodeStep(plan: DecodePlan): DecodeStep | undefined {
    return decodeStep(this, this.runtime, plan)
  }

  record(body: () => void): Recording {
    const graph = this.runtime.capture(body)
    return { replay: () => this.runtime.replay(graph), release: () => this.runtime.forget(graph) }
  }

  /** Times the ways to compute the products seen so far and keeps the fastest (once a card: the choices stay on disk). */
  settle(): void {
    if (this.matmul.untuned > 0) this.matmul.tune()
  }

  choices(): Record<string, string> {
    return this.matmul.signatures()
  }

  choiceOf(call: string): string | undefined {
    return this.matmul.signature(call)
  }

  /** The same for the same card, driver, compiler and cuBLASLt; which algorithms were chosen is in `choices`. */
  get fingerprint(): string {
    return `${this.runtime.fingerprint}-${this.#lt.version}`
  }

  get card(): CardProperties {
    return this.runtime.card
  }

  /** `driver for CUDA 13.0, NVRTC 13.0, cuBLASLt 13.0.2, cuDNN 9.14`: what stands behind this device. */
  get libraryVersions(): string {
    const parts = [
      `driver for CUDA ${versionText(this.runtime.driver.version)}`,
      `NVRTC ${versionText(this.runtime.compilerVersion)}`,
      `cuBLASLt ${ltVersionText(this.#lt.version)}`,
    ]
    if (this.#cudnn !== undefined) parts.push(this.#cudnn.problem ?? `cuDNN ${cudnnVersionText(this.#cudnn.version)}`)
    return parts.join(', ')
  }

  /** Attention by whole matrices, to be measured beside this device's. */
  vanillaAttention(): VanillaAttentionParts {
    return vanillaAttentionParts(this.runtime, this.#lt)
  }

  /** FLOP/s of large products in this device's precision, measured in about 50 ms. */
  measureMatmulFlops(): number {
    const size = PEAK_SIZE
    const make = (): Tensor => {
      const storage = new Storage(this, size * size * this.itemBytes(this.floatDtype))
      storage.bind(this.allocate(storage.bytes), 0)
      return new Tensor([size, size], this.floatDtype, storage)
    }
    const [a, b, out] = [make(), make(), make()]
    try {
      for (const [i, x] of [a, b].entries()) this.kernels.randomNormal(x, { keyLow: i, keyHigh: 0 }, 0, 0, 1)
      const times = Array.from({ length: 5 }, () => this.runtime.time(() => this.kernels.matmul(out, a, b, {})))
      return (2 * size ** 3 * 1000) / Math.min(...times)
    } finally {
      for (const { storage } of [a, b, out]) this.release(storage.buffer!)
    }
  }

  /** Waits for the card and gives back what the device holds for itself. Tensors are lost. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.runtime.synchronize()
    for (const address of this.#live) this.runtime.free(address)
    this.#live.clear()
    this.#link.close()
    this.matmul.close()
    this.#lt.close()
    this.runtime.close()
  }
}

function asElements(dtype: Dtype, values: ArrayLike<number>): HostArray {
  const wanted = hostArray(dtype, 0)
  if (wanted.constructor === values.constructor) return values as HostArray
  const elements = hostArray(dtype, values.length)
  elements.set(values)
  return elements
}
