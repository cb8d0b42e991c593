// How a kernel file is asked for and launched: what the launchers of the op families see of the CUDA runtime. Knows no
// kernel by name.
import type { Dtype } from '../../core/dtype.ts'

/** Blocks of a launch: x, or [x, y, z]. */
export type Grid = number | readonly [x: number, y: number, z?: number]

/**
 * Launches on the device's stream. `args` follow the kernel's signature: numbers for p, l, i, u, f and d, a
 * TensorMap for m. Clusters are fixed in the kernel's text (__cluster_dims__).
 */
export type CudaKernel = (
  grid: Grid,
  block: number | readonly [number, number],
  ...args: (number | TensorMap)[]
) => void

/** 128 bytes that describe a tile of a tensor to the copy engine (cuTensorMapEncodeTiled), passed by value. */
export type TensorMap = Uint8Array

export interface KernelOptions {
  /** TY_DTYPE of the compilation; default f32. */
  readonly dtype?: Dtype
  /** More macros, integers only: HEAD_DIM ... Each set of them is a compilation of its own. */
  readonly defines?: Readonly<Record<string, number>>
  /** Dynamic shared memory of every launch, in bytes. */
  readonly sharedBytes?: number
  /** Multiply-adds are fused unless this is false (random numbers must have the same bits everywhere). */
  readonly fusedMultiplyAdd?: boolean
}

export interface TensorMapShape {
  readonly dtype: Dtype
  /** Address of the first element, 16-byte aligned. */
  readonly address: number
  /** Elements of each dim, innermost first, up to 5. */
  readonly sizes: readonly number[]
  /** Elements from one entry to the next of dims 1 .. (dim 0 is dense); times the item size a multiple of 16. */
  readonly strides: readonly number[]
  /** Elements of the box that one copy brings, innermost first. */
  readonly box: readonly number[]
  /** Bytes of the shared-memory swizzle: 0 for none. */
  readonly swizzle: 0 | 32 | 64 | 128
}

export interface Launcher {
  readonly multiprocessors: number
  /** 90 for compute capability 9.0. */
  readonly computeCapability: number
  /** Most dynamic shared memory of a block, in bytes. */
  readonly maxSharedBytes: number
  /**
   * Kernel `name` of kernels/<file>.cu: compiled (or taken from the cache) at its first use, not here. A letter of
   * `signature` for each argument: p address, l int64, i int32, u uint32, f float, d double, m TensorMap.
   */
  kernel(file: string, name: string, signature: string, options?: KernelOptions): CudaKernel
  /**
   * Address of at least `bytes` of device memory that belongs to the kernel launched next and those that follow it in
   * the same launcher function; overwritten by the next caller. 256-byte aligned.
   */
  scratch(bytes: number): number
  tensorMap(shape: TensorMapShape): TensorMap
}

/** Blocks that cover `count` with `each` per block, at most `limit`: kernels with more work walk in grid strides. */
export function blocksFor(count: number, each: number, limit = 0x7fffffff): number {
  return Math.max(1, Math.min(Math.ceil(count / each), limit))
}

/** `make`, called once for each combination of (few, plain) arguments. */
export function memoized<Args extends readonly (string | number | boolean)[], Result>(
  make: (...args: Args) => Result,
): (...args: Args) => Result {
  const made = new Map<string, Result>()
  return (...args) => {
    const key = args.join(' ')
    let result = made.get(key)
    if (result === undefined) {
      result = make(...args)
      made.set(key, result)
    }
    return result
  }
}
