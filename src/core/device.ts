// What a backend must offer: memory, copies to and from the host, and the kernels. A backend is a connector
// to one kind of hardware; nothing above this file knows which one it is talking to.
import type { DecodePlan, DecodeStep } from './decode-plan.ts'
import type { Dtype, HostArray } from './dtype.ts'
import type { Fp8Kernels } from './fp8.ts'
import type { Kernels } from './kernels.ts'
import type { Tensor } from './tensor.ts'

/** A block of device memory. Freed when it is no longer reachable, or at once by `Device.release`. */
export interface DeviceBuffer {
  readonly bytes: number
  /** First byte's address; 0 where addresses mean nothing. */
  readonly address: number
}

/** What decides how much room the attention of a micro-batch needs. */
export interface AttentionShape {
  readonly microBatchSize: number
  readonly seqLen: number
  readonly numAttentionHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
}

/** What decides how much room the kernels of a micro-batch need. */
export interface TrainingShape extends AttentionShape {
  readonly hiddenSize: number
  readonly vocabSize: number
}

export interface Device {
  /** `cpu`, `reference`, `meta`, `cuda:0`. */
  readonly name: string
  readonly kernels: Kernels
  /** Products of 8-bit floats, where the device was asked to train with them. */
  readonly fp8?: Fp8Kernels | undefined
  /** dtype of activations and of the parameters that ops read: `f32` on the CPU, `f64` in the reference, often `bf16` on a GPU. */
  readonly floatDtype: Dtype
  /** dtype of what optimizers work on: weights, their gradients and states. Where it is wider than floatDtype, ops read working copies. */
  readonly masterDtype: 'f32' | 'f64'
  /** Elements of logits that should exist at once: enough rows for a product to be fast, not many more. */
  readonly logitsChunkElements: number
  /** Bytes that one element takes on this device (the reference keeps everything in f64). */
  itemBytes(dtype: Dtype): number
  /** Memory aligned to 64 bytes, contents undefined. Throws DeviceError when there is not enough. */
  allocate(bytes: number): DeviceBuffer
  /** Gives memory back now. Using a tensor in it afterwards is a bug. */
  release(buffer: DeviceBuffer): void
  /** Copies host values into a contiguous tensor; floats are converted to the tensor's dtype. */
  write(tensor: Tensor, values: ArrayLike<number>): void
  /** Copies a contiguous tensor to the host in its own dtype. Always asynchronous: never call it inside a step. */
  read(tensor: Tensor): Promise<HostArray>
  /** Bytes that kernels keep for themselves while such a model is trained, at most; absent where they keep none. */
  kernelScratchBytes?(shape: TrainingShape): number
  /** Takes these bytes now, as one block, instead of as kernels ask for more; absent where the process gives them anyway. */
  reserveScratch?(bytes: number): void
  /** Bytes of the process's memory that the device's libraries take once they are at work; absent where it has none. */
  readonly libraryBytes?: number
  /** Bytes of its own memory that code, recordings and libraries take once they are at work. */
  readonly ownLibraryBytes?: number
  /** Memory of the device's own, in bytes; absent where tensors lie in the process's memory. */
  ownMemory?(): DeviceMemory
  /** May time several ways to do what has been done so far, and fixes the fastest. Later results may differ in last bits. */
  settle?(): void
  /** How calls are computed that could be computed in several ways, by call, as far as that is fixed: part of what decides a run's bits. */
  choices?(): Readonly<Record<string, string>>
  /** How such a call will be computed here; undefined where that is not fixed yet. */
  choiceOf?(call: string): string | undefined
  /**
   * Notes the kernel calls of `body`, without running them, to be run again as they are: same memory, same arguments.
   * `body` must have run once before, and may not write, read or allocate. Absent where calls cost nothing to make.
   */
  record?(body: () => void): Recording
  /** A program of its own for this model and cache; undefined where it has none for such sizes. */
  decodeStep?(plan: DecodePlan): DecodeStep | undefined
}

/** A device's own memory, as its driver tells it. */
export interface DeviceMemory {
  readonly freeBytes: number
  readonly totalBytes: number
  /** What tensors of this process hold, and what its kernels keep for themselves; the rest that is taken is of libraries and other programs. */
  readonly tensorBytes: number
  readonly scratchBytes: number
}

/** Kernel calls that can be made again, all at once. */
export interface Recording {
  replay(): void
  /** Forgets them. */
  release(): void
}
