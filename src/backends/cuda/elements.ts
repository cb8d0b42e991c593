// How a tensor becomes the arguments of an elementwise kernel: the Extent of kernels/elements.cuh, the numbers of element
// types, and kernels kept by the types they are compiled for.
import type { Dtype } from '../../core/dtype.ts'
import { DtypeError, invariant } from '../../core/errors.ts'
import type { Tensor } from '../../core/tensor.ts'
import { blocksFor, type CudaKernel } from './launcher.ts'

/** TypeOf of kernels/elements.cuh. */
export const DTYPE_NUMBER: Readonly<Record<Dtype, number>> = { f32: 0, bf16: 1, f16: 2, f64: 3, i32: 4, u8: 5 }

/** The types that kernels compute with, at their numbers. */
export const FLOATS = ['f32', 'bf16', 'f16'] as const

/** Threads of a block, and groups of each: DEPTH of kernels/elements.cuh. */
export const THREADS = 256
const DEPTH = 4
/** Blocks at most for what is not handled in groups: they walk. */
const MOST_LOOSE_BLOCKS = 8192

/** @throws DtypeError unless it is one of the float types that kernels compute with */
export function floatNumber(who: string, what: string, { dtype }: Tensor): number {
  const number = DTYPE_NUMBER[dtype]
  if (number > DTYPE_NUMBER.f16) throw new DtypeError(`${who} on cuda: ${what} must be f32, bf16 or f16, got ${dtype}`)
  return number
}

/** Makes a kernel at the first use of each set of numbers that it is compiled for. */
export function variants<Numbers extends number[]>(make: (...numbers: Numbers) => CudaKernel) {
  const made = new Map<string, CudaKernel>()
  return (...numbers: Numbers): CudaKernel => {
    const key = numbers.join()
    let kernel = made.get(key)
    if (kernel === undefined) {
      kernel = make(...numbers)
      made.set(key, kernel)
    }
    return kernel
  }
}

/** Whether groups of `length` elements can be moved by one access: the address and every row start at such a group. */
export function isGrouped(tensor: Tensor, length: number): boolean {
  const rowsAgree = tensor.isContiguous || (tensor.rowStride % length === 0 && tensor.columnCount % length === 0)
  return rowsAgree && tensor.address % (length * tensor.device.itemBytes(tensor.dtype)) === 0
}

/** Letters of the struct Extent in a kernel's signature: its fields, and the padding behind them. */
export const EXTENT_LETTERS = 'lllluu'

export interface Extent {
  readonly grid: number
  /** Arguments for EXTENT_LETTERS: count, groups, outStride, inStride, columns, padding. */
  readonly fields: readonly [number, number, number, number, number, number]
}

/**
 * The walk of a kernel that reads `ins` and writes `out`, all of one shape. The first of `ins` may have rows at other
 * distances than out; the others lie as out does.
 */
export function extentOf(out: Tensor, ...ins: readonly Tensor[]): Extent {
  const tensors = [out, ...ins]
  const length = 16 / Math.max(...tensors.map((tensor) => tensor.device.itemBytes(tensor.dtype)))
  const isContiguous = tensors.every((tensor) => tensor.isContiguous)
  const { size, columnCount } = out
  // A contiguous tensor beside a column slice is walked by rows too.
  const isWhole = isContiguous || columnCount % length === 0
  const groups = isWhole && tensors.every((tensor) => isGrouped(tensor, length)) ? Math.floor(size / length) : 0
  invariant(isContiguous || size < 2 ** 32, 'a column slice has at most 2^32 elements')
  const grid = Math.max(
    blocksFor(groups, THREADS * DEPTH),
    blocksFor(size - groups * length, THREADS, MOST_LOOSE_BLOCKS),
  )
  return {
    grid,
    fields: [size, groups, out.rowStride, ins[0]?.rowStride ?? out.rowStride, isContiguous ? 0 : columnCount, 0],
  }
}
