// The CPU device: native memory that the garbage collector frees, copies to and from the host, and the kernels of all
// families on one thread pool. Computes in f32. Finding and building the library is open-cpu.ts's.
import koffi from 'koffi'
import type { AttentionShape, Device, DeviceBuffer } from '../../core/device.ts'
import { DTYPE_BYTES, type Dtype, type HostArray } from '../../core/dtype.ts'
import { DeviceError, DtypeError, invariant, ShapeError } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import { show, type Tensor } from '../../core/tensor.ts'
import type { VanillaAttentionParts } from '../../core/vanilla-attention.ts'
import { activationKernels } from './activation.ts'
import { attentionKernels } from './attention.ts'
import { vanillaAttentionParts } from './attention-vanilla.ts'
import { decodeKernels } from './decode.ts'
import { elementwiseKernels } from './elementwise.ts'
import type { CpuLibrary, Isa } from './library.ts'
import { type MatmulPrecision, matmulKernels } from './matmul.ts'
import { normKernels } from './norm.ts'
import { optimizerKernels } from './optimizer.ts'
import { measurePeakFlops, type PeakFlops } from './peak.ts'
import { scratchBytes } from './scratch.ts'

const ALIGNMENT = 64

/** Native memory. `memory` shows it to JavaScript, and tells its size to the garbage collector. */
class CpuBuffer implements DeviceBuffer {
  readonly bytes: number
  readonly address: number
  readonly memory: ArrayBuffer

  constructor(bytes: number, address: number) {
    this.bytes = bytes
    this.address = address
    this.memory = koffi.view(address, bytes)
  }
}

export interface CpuDeviceOptions {
  /** Threads of the pool, the caller among them. */
  threads: number
  matmulPrecision: MatmulPrecision
}

export class CpuDevice implements Device {
  readonly name = 'cpu'
  readonly floatDtype = 'f32'
  readonly masterDtype = 'f32'
  readonly logitsChunkElements = 1 << 22
  readonly kernels: Kernels
  /** The instruction set in use. */
  readonly isa: Isa
  readonly threads: number
  readonly matmulPrecision: MatmulPrecision
  readonly #library: CpuLibrary
  #context: number
  readonly #allocate: (bytes: number) => number
  readonly #free: (address: number) => number
  readonly #unreachable: FinalizationRegistry<number>
  /** Buffers given back by release(): a second release must not free other memory that is there by then. */
  readonly #released = new WeakSet<DeviceBuffer>()

  constructor(library: CpuLibrary, { threads, matmulPrecision }: CpuDeviceOptions) {
    this.#library = library
    this.isa = library.isa
    this.threads = threads
    this.matmulPrecision = matmulPrecision
    this.#allocate = library.plain('allocate', 'l', 'int64_t')
    const free = library.plain('free', 'p')
    this.#free = free
    this.#unreachable = new FinalizationRegistry((address) => free(address))
    const context = library.plain('context_create', 'i', 'int64_t')(threads)
    this.#context = context
    this.kernels = {
      ...elementwiseKernels(library, context),
      ...matmulKernels(library, context, matmulPrecision),
      ...normKernels(library, context),
      ...activationKernels(library, context),
      ...attentionKernels(library, context),
      ...decodeKernels(library, context),
      ...optimizerKernels(library, context),
    }
  }

  /** Ends the threads of the pool. No kernel may be called afterwards; memory and copies still work. */
  close(): void {
    if (this.#context === 0) return
    this.#library.plain('context_destroy', 'p')(this.#context)
    this.#context = 0
  }

  itemBytes(dtype: Dtype): number {
    return DTYPE_BYTES[dtype]
  }

  /** @throws DeviceError when the machine has not enough memory */
  allocate(bytes: number): DeviceBuffer {
    const size = Math.max(Math.ceil(bytes / ALIGNMENT) * ALIGNMENT, ALIGNMENT)
    const address = Number.isSafeInteger(size) ? this.#allocate(size) : 0
    if (address === 0) {
      throw new DeviceError(
        `cpu: the machine has no ${(bytes / 2 ** 20).toFixed(1)} MiB of memory left, use a smaller model or micro-batch`,
      )
    }
    const buffer = new CpuBuffer(bytes, address)
    this.#unreachable.register(buffer, address, buffer)
    return buffer
  }

  release(buffer: DeviceBuffer): void {
    if (this.#released.has(buffer)) return
    this.#released.add(buffer)
    this.#unreachable.unregister(buffer)
    this.#free(buffer.address)
  }

  /**
   * Copies host values into a contiguous tensor. 16-bit floats are taken as raw bits in a Uint16Array.
   * @throws ShapeError when the number of values is not the tensor's
   * @throws DtypeError for 16-bit floats that come as anything else
   */
  write(tensor: Tensor, values: ArrayLike<number>): void {
    if (values.length !== tensor.size) {
      throw new ShapeError(`write: a tensor ${show(tensor.shape)} takes ${tensor.size} values, got ${values.length}`)
    }
    const isHalf = tensor.dtype === 'bf16' || tensor.dtype === 'f16'
    if (isHalf && !(values instanceof Uint16Array)) {
      throw new DtypeError(`write: a ${tensor.dtype} tensor takes raw bits in a Uint16Array, got other values`)
    }
    elementsOf(tensor).set(values)
  }

  async read(tensor: Tensor): Promise<HostArray> {
    return elementsOf(tensor).slice()
  }

  kernelScratchBytes(shape: AttentionShape): number {
    return scratchBytes(shape, this.threads)
  }

  /** Attention by whole matrices, to be measured beside this device's. */
  vanillaAttention(): VanillaAttentionParts {
    return vanillaAttentionParts(this.#library, this.#context, this.kernels.matmul)
  }

  /** Bytes that kernels have kept for themselves so far. */
  get scratchBytesHeld(): number {
    return this.#library.plain('scratch_held', 'l', 'int64_t')(this.#context)
  }

  /** The f32 multiply-add peak of this device's threads and instruction set, measured in about 50 ms. */
  measurePeakFlops(): PeakFlops {
    const buffer = this.allocate(8 + 4 * this.threads) as CpuBuffer
    try {
      return measurePeakFlops(this.#library, this.#context, buffer)
    } finally {
      this.release(buffer)
    }
  }
}

/** A contiguous tensor's elements, in place. Valid while its buffer lives. */
function elementsOf(tensor: Tensor): HostArray {
  invariant(tensor.isContiguous, 'a column slice cannot be copied to or from the host, copy it on the device first')
  const { buffer, byteOffset } = tensor.storage
  invariant(buffer instanceof CpuBuffer, 'the tensor has no memory on this device')
  const start = byteOffset + tensor.offset * DTYPE_BYTES[tensor.dtype]
  switch (tensor.dtype) {
    case 'f64':
      return new Float64Array(buffer.memory, start, tensor.size)
    case 'f32':
      return new Float32Array(buffer.memory, start, tensor.size)
    case 'bf16':
    case 'f16':
      return new Uint16Array(buffer.memory, start, tensor.size)
    case 'i32':
      return new Int32Array(buffer.memory, start, tensor.size)
    case 'u8':
      return new Uint8Array(buffer.memory, start, tensor.size)
  }
}
