// Memory of the reference backend and how its kernels look at it: every element is a float64, whatever its dtype, and
// a tensor is a list of rows. Fresh memory is NaN, so that a kernel which reads what nobody wrote shows it.
import type { DeviceBuffer } from '../../core/device.ts'
import { invariant } from '../../core/errors.ts'
import { show, type Tensor } from '../../core/tensor.ts'

/** Bytes of an element of any dtype. */
export const ITEM_BYTES = 8

export class ReferenceBuffer implements DeviceBuffer {
  readonly bytes: number
  readonly address = 0
  values: Float64Array

  constructor(bytes: number) {
    this.bytes = bytes
    this.values = new Float64Array(Math.ceil(bytes / ITEM_BYTES)).fill(Number.NaN)
  }
}

/** `length` elements of the tensor's storage, from element `offset` of the tensor on, in place. */
function elementsFrom(tensor: Tensor, offset: number, length: number): Float64Array {
  const { buffer, byteOffset } = tensor.storage
  invariant(buffer instanceof ReferenceBuffer, 'the tensor has no memory on the reference device')
  const start = byteOffset / ITEM_BYTES + tensor.offset + offset
  invariant(start + length <= buffer.values.length, 'the tensor reaches outside its memory, or this was released')
  return buffer.values.subarray(start, start + length)
}

/** All elements of a contiguous tensor, in place. */
export function elementsOf(tensor: Tensor): Float64Array {
  invariant(tensor.isContiguous, `the kernel needs a contiguous tensor, not a column slice ${show(tensor.shape)}`)
  return elementsFrom(tensor, 0, tensor.size)
}

/** The rows of a tensor [.., C] in place: `x[i][j]`. Takes column slices. */
export function slicedRowsOf(tensor: Tensor): Float64Array[] {
  const { rowCount, columnCount, rowStride } = tensor
  return Array.from({ length: rowCount }, (_, i) => elementsFrom(tensor, i * rowStride, columnCount))
}

/** The rows of a contiguous tensor, in place. */
export function rowsOf(tensor: Tensor): Float64Array[] {
  invariant(tensor.isContiguous, `the kernel needs a contiguous tensor, not a column slice ${show(tensor.shape)}`)
  return slicedRowsOf(tensor)
}
