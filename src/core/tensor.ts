// A tensor: shape + dtype + a storage slot on one device. Storage is a slot that can be bound again, so a
// parameter can be materialised late and an activation can be recomputed into other memory while every view
// follows. There are no general strided views: reshape, leading index, and a column slice (a row stride and
// a column offset), which `linear`, `rope` and `attention` accept.
import type { Device, DeviceBuffer } from './device.ts'
import type { Dtype } from './dtype.ts'
import { invariant, ShapeError } from './errors.ts'
import type { Fp8Matrix } from './fp8.ts'

/** A slot of device memory: `bytes` at `byteOffset` of a buffer. Bound when memory is assigned to it. */
export class Storage {
  readonly device: Device
  readonly bytes: number
  buffer: DeviceBuffer | undefined
  byteOffset = 0
  /** Address of the first byte (0 on devices that have none, such as `meta` and `reference`). */
  address = 0

  constructor(device: Device, bytes: number) {
    this.device = device
    this.bytes = bytes
  }

  bind(buffer: DeviceBuffer, byteOffset: number): void {
    this.buffer = buffer
    this.byteOffset = byteOffset
    this.address = buffer.address + byteOffset
  }
}

/** Number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  let size = 1
  for (const n of shape) size *= n
  return size
}

export class Tensor {
  readonly shape: readonly number[]
  readonly dtype: Dtype
  readonly size: number
  /** Elements from one row (the last dim) to the next; equal to the last dim unless this is a column slice. */
  readonly rowStride: number
  /** Elements from the start of the storage. */
  readonly offset: number
  /** The tensor this is a view of (never itself a view), or undefined. Views share its gradient. */
  readonly base: Tensor | undefined
  storage: Storage
  /** The tape entry that made this tensor, set while a tape records. Typed loosely: the tape owns the type. */
  producer: object | undefined
  /** Set where these numbers exist in fp8 only: then the tensor has a shape and a gradient, but no memory. */
  fp8: Fp8Matrix | undefined

  constructor(
    shape: readonly number[],
    dtype: Dtype,
    storage: Storage,
    options: { offset?: number; rowStride?: number; base?: Tensor } = {},
  ) {
    this.shape = shape
    this.dtype = dtype
    this.storage = storage
    this.size = sizeOf(shape)
    this.rowStride = options.rowStride ?? shape[shape.length - 1] ?? 1
    this.offset = options.offset ?? 0
    this.base = options.base
  }

  get device(): Device {
    return this.storage.device
  }

  /** Address of the first element, for kernels called through FFI. */
  get address(): number {
    return this.storage.address + this.offset * this.storage.device.itemBytes(this.dtype)
  }

  /** Last dim: elements of a row. */
  get columnCount(): number {
    return this.shape[this.shape.length - 1] ?? 1
  }

  /** All dims but the last, multiplied. */
  get rowCount(): number {
    return this.size / this.columnCount
  }

  get isContiguous(): boolean {
    return this.rowStride === this.columnCount
  }

  /** The same elements under another shape. A column slice keeps its last dim. */
  reshape(...shape: number[]): Tensor {
    if (sizeOf(shape) !== this.size) {
      throw new ShapeError(`reshape: ${show(this.shape)} has ${this.size} elements, cannot become ${show(shape)}`)
    }
    invariant(this.isContiguous || shape[shape.length - 1] === this.columnCount, 'reshape of a column slice')
    return new Tensor(shape, this.dtype, this.storage, {
      offset: this.offset,
      rowStride: this.isContiguous ? (shape[shape.length - 1] ?? 1) : this.rowStride,
      base: this.base ?? this,
    })
  }

  /** Columns [from, from + count) of every row: a view with the parent's row stride. */
  columns(from: number, count: number): Tensor {
    if (from < 0 || from + count > this.columnCount) {
      throw new ShapeError(`columns: [${from}, ${from + count}) is outside ${show(this.shape)}`)
    }
    return new Tensor([...this.shape.slice(0, -1), count], this.dtype, this.storage, {
      offset: this.offset + from,
      rowStride: this.rowStride,
      base: this.base ?? this,
    })
  }

  /** `count` entries of the leading dim from `from` on: a contiguous view. Its rank stays the same. */
  slice(from: number, count: number): Tensor {
    const leading = this.shape[0] ?? 1
    if (from < 0 || from + count > leading) {
      throw new ShapeError(`slice: [${from}, ${from + count}) is outside the leading dim of ${show(this.shape)}`)
    }
    const rowsPerEntry = this.rowCount / (this.shape.length > 1 ? leading : 1)
    const step = this.shape.length > 1 ? rowsPerEntry * this.rowStride : 1
    return new Tensor([count, ...this.shape.slice(1)], this.dtype, this.storage, {
      offset: this.offset + from * step,
      rowStride: this.shape.length > 1 ? this.rowStride : count,
      base: this.base ?? this,
    })
  }
}

/** A shape as text: `[4, 1024, 768]`. */
export function show(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`
}

/** Throws a ShapeError unless `tensor` has exactly `expected` as its shape. `labels` names the dims: 'D'. */
export function expectShape(
  who: string,
  what: string,
  tensor: Tensor,
  expected: readonly number[],
  hint: string = '',
): void {
  const same = tensor.shape.length === expected.length && expected.every((n, i) => tensor.shape[i] === n)
  if (!same) {
    throw new ShapeError(
      `${who}: ${what} must be ${show(expected)}${hint === '' ? '' : ` ${hint}`}, got ${show(tensor.shape)}`,
    )
  }
}
