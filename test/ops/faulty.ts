// Faults on purpose: a device whose kernels go wrong while a backward runs, and ops whose gradients are 1 % off. Only
// the planted-fault test uses them, to prove that the checks of harness.ts would catch such a bug.
import { emptyTensor } from '../../src/core/allocator.ts'
import type { Device, DeviceBuffer } from '../../src/core/device.ts'
import type { Dtype, HostArray } from '../../src/core/dtype.ts'
import type { Gradients } from '../../src/core/gradients.ts'
import type { Kernels } from '../../src/core/kernels.ts'
import type { TapeEntry } from '../../src/core/op.ts'
import { Parameter } from '../../src/core/parameter.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import type { AnyOp } from './registry.ts'

/** Which gradient a fault spoils: that of an activation or that of a parameter. */
export type Half = 'backwardInput' | 'backwardWeight'

export interface Fault {
  readonly op: string
  readonly half: Half
  readonly name: string
  /** The kernels to replace, given the right ones. */
  readonly plant: (kernels: Kernels) => Partial<Kernels>
  /** The faulty kernels work in the forward too: for a loss, whose gradients are made there. */
  readonly inForward?: boolean
}

/** `inner` with some kernels replaced, as long as it is armed. */
export class FaultyDevice implements Device {
  readonly name: string
  readonly floatDtype: Dtype
  readonly masterDtype: 'f32' | 'f64'
  readonly logitsChunkElements: number
  readonly #inner: Device
  readonly #faulty: Kernels
  isArmed = false

  constructor(inner: Device, plant: Fault['plant']) {
    this.#inner = inner
    this.name = `faulty ${inner.name}`
    this.floatDtype = inner.floatDtype
    this.masterDtype = inner.masterDtype
    this.logitsChunkElements = inner.logitsChunkElements
    this.#faulty = { ...inner.kernels, ...plant(inner.kernels) }
  }

  get kernels(): Kernels {
    return this.isArmed ? this.#faulty : this.#inner.kernels
  }

  itemBytes(dtype: Dtype): number {
    return this.#inner.itemBytes(dtype)
  }

  allocate(bytes: number): DeviceBuffer {
    return this.#inner.allocate(bytes)
  }

  release(buffer: DeviceBuffer): void {
    this.#inner.release(buffer)
  }

  write(tensor: Tensor, values: ArrayLike<number>): void {
    this.#inner.write(tensor, values)
  }

  read(tensor: Tensor): Promise<HostArray> {
    return this.#inner.read(tensor)
  }
}

/** tensor *= factor */
export function scale(kernels: Kernels, tensor: Tensor, factor: number): void {
  const copy = copyOf(kernels, tensor)
  kernels.axpby(copy, copy, copy, factor, 0)
  kernels.copy(tensor, copy)
}

/** A contiguous copy. */
export function copyOf(kernels: Kernels, tensor: Tensor): Tensor {
  const copy = emptyTensor(tensor.device, tensor.shape, tensor.dtype)
  kernels.copy(copy, tensor)
  return copy
}

/** A copy times a factor: `scaledCopy(kernels, rstd, 1.01)` is a stale rstd. */
export function scaledCopy(kernels: Kernels, tensor: Tensor, factor: number): Tensor {
  const copy = copyOf(kernels, tensor)
  kernels.axpby(copy, copy, copy, factor, 0)
  return copy
}

/** The last row of a tensor, as a matrix of one row. */
export function lastRow(tensor: Tensor): Tensor {
  return tensor.reshape(tensor.rowCount, tensor.columnCount).slice(tensor.rowCount - 1, 1)
}

/** All rows but the last, as a matrix. */
export function withoutLastRow(tensor: Tensor): Tensor {
  return tensor.reshape(tensor.rowCount, tensor.columnCount).slice(0, tensor.rowCount - 1)
}

/** All entries but the last of a vector. */
export function withoutLast(tensor: Tensor): Tensor {
  return tensor.reshape(tensor.size).slice(0, tensor.size - 1)
}

/** An entry's op, replaced by one that leaves the gradient of `input` one per cent too large. */
export function plantInOp(entry: TapeEntry, input: string): void {
  const op = entry.op as AnyOp
  const spoil = (): void => {
    const gradient = entry.inputs[input] instanceof Parameter ? entry.inputs[input].gradient : undefined
    if (gradient !== undefined) scale(gradient.device.kernels, gradient, 1.01)
  }
  const spoilActivation = (gradients: Gradients): void => {
    const tensor = entry.inputs[input]
    const gradient = tensor && !(tensor instanceof Parameter) && gradients.find(tensor)
    if (gradient) scale(gradient.device.kernels, gradient, 1.01)
  }
  const { backwardWeight, backward } = op
  const faulty: AnyOp = {
    ...op,
    backwardInput(recorded, gradients) {
      op.backwardInput(recorded, gradients)
      spoilActivation(gradients)
      // A loss has made its parameters' gradients in the forward.
      if (backwardWeight === undefined) spoil()
    },
    ...(backwardWeight && {
      backwardWeight(recorded: TapeEntry, gradients: Gradients) {
        backwardWeight(recorded, gradients)
        spoil()
      },
    }),
    ...(backward && {
      backward(recorded: TapeEntry, gradients: Gradients) {
        backward(recorded, gradients)
        spoilActivation(gradients)
        spoil()
      },
    }),
  }
  ;(entry as { op: AnyOp }).op = faulty
}
