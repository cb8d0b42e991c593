// Launchers of kernels/fp8.cu, and products of its results: what core/fp8.ts asks of a device.
import { DeviceError, invariant } from '../../core/errors.ts'
import {
  FP8_LARGEST,
  type Fp8CastOptions,
  type Fp8Format,
  type Fp8Kernels,
  type Fp8Matrix,
  type Fp8Scaling,
} from '../../core/fp8.ts'
import type { Tensor } from '../../core/tensor.ts'
import { DTYPE_NUMBER, variants } from './elements.ts'
import { blocksFor, type CudaKernel, type Launcher } from './launcher.ts'
import type { CudaMatmul } from './matmul.ts'

/** TILE, THREADS and SOURCE of the kernel file. */
const TILE = 128
const THREADS = 256
const SOURCE = { none: 0, gelu: 1, geluBackward: 2, swiglu: 3, swigluBackward: 4 } as const
/** Of kernels/fp8-norm.cu: columns of a group, most groups of a thread and warps of a row, rows of a block. */
const NORM_GROUP = 8
const NORM_GROUPS = 4
const NORM_WARPS = 4
const NORM_ROWS = 32
const FORMAT: Readonly<Record<Fp8Format, number>> = { e4m3: 0, e5m2: 1 }
/**
 * Per row of x, three products of a weight [R, C] save 6 R C FLOPs at the difference of the rates, and casts move
 * 4 (R + C) bytes: it pays where R C / (R + C) is at least this (docs/precision.md has the figures).
 */
const LEAST_GAIN = 448
const FIRST_CAPABILITY = 89
const FIRST_BY_ROWS = 90

/** @throws DeviceError where the card has no fp8, or none with such scales */
export function expectFp8({ computeCapability }: Pick<Launcher, 'computeCapability'>, scaling: Fp8Scaling): void {
  const needed = scaling === 'row' ? FIRST_BY_ROWS : FIRST_CAPABILITY
  if (computeCapability >= needed) return
  const remedy =
    scaling === 'row' && computeCapability >= FIRST_CAPABILITY ? 'use --fp8-scaling tensor' : 'use --precision bf16'
  throw new DeviceError(
    `cuda: precision fp8 with scales by ${scaling} needs compute capability ${(needed / 10).toFixed(1)}, this is ${(computeCapability / 10).toFixed(1)}: ${remedy}`,
  )
}

export function fp8Kernels(launcher: Launcher, matmul: CudaMatmul, scaling: Fp8Scaling): Fp8Kernels {
  const isByRows = scaling === 'row'
  const family = (name: string, signature: string) =>
    variants((source: number, format: number): CudaKernel => {
      const defines = { SOURCE: source, FORMAT: format, BY_ROWS: Number(isByRows) }
      return launcher.kernel('fp8', name, signature, { dtype: 'bf16', defines })
    })
  const castTo = family('fp8_cast', 'ppppppppllii')
  const extremes = family('fp8_extremes', 'ppppllii')
  const normTo = variants((warps: number, groups: number, isLayerNorm: number) =>
    launcher.kernel('fp8-norm', 'fp8_norm', 'pppppppppiif', {
      dtype: 'bf16',
      defines: { WARPS: warps, GROUPS: groups, IS_LAYERNORM: isLayerNorm },
    }),
  )
  const plain = (name: string, signature: string) => family(name, signature)(0, 0)
  const zero = plain('fp8_zero', 'pi')
  const inverses = plain('fp8_inverses', 'pif')
  const primeSlot = plain('fp8_prime', 'pppf')
  const updateSlots = plain('fp8_update_scales', 'pppppi')
  const addParts = launcher.kernel('elementwise', 'add_row_sums', 'ppiii', {
    defines: { OUT_DTYPE: DTYPE_NUMBER.f32, X_DTYPE: DTYPE_NUMBER.f32 },
  })

  /** Of what is cast: its sizes, blocks, and the arguments that say where it is read. */
  const sourceOf = (x: Tensor, { activation, other }: Fp8CastOptions) => {
    invariant(x.dtype === 'bf16' && (other?.dtype ?? 'bf16') === 'bf16', 'fp8: what is cast is bf16')
    const rows = x.rowCount
    const columns =
      activation === 'swiglu' ? x.columnCount / 2 : activation === 'swigluBackward' ? 2 * x.columnCount : x.columnCount
    const half = activation === 'swigluBackward' ? columns / 2 : columns
    const isAligned = [x, other].every((t) => t === undefined || (t.address % 16 === 0 && t.rowStride % 8 === 0))
    invariant(rows % 16 === 0 && half % 8 === 0 && isAligned, 'fp8: rows in sixteens, columns in eights')
    return {
      rows,
      columns,
      kind: SOURCE[activation ?? 'none'],
      grid: [Math.ceil(half / (activation === 'swigluBackward' ? TILE / 2 : TILE)), Math.ceil(rows / TILE)] as const,
      fields: [x.address, other?.address ?? 0, x.rowStride, other?.rowStride ?? 0, rows, columns] as const,
    }
  }

  /** What the numbers of each row and of each column are to be multiplied by after a product. */
  const writeScales = (out: Fp8Matrix, source: ReturnType<typeof sourceOf>): void => {
    const { rowScale, columnScale, format } = out
    const scales = [rowScale, columnScale]
    for (const { address, size } of scales) zero(blocksFor(size, THREADS), THREADS, address, size)
    extremes(source.kind, FORMAT[format])(source.grid, THREADS, rowScale.address, columnScale.address, ...source.fields)
    for (const { address, size } of scales) {
      inverses(blocksFor(size, THREADS), THREADS, address, size, FP8_LARGEST[format])
    }
  }

  return {
    scaling,
    gains: (rows, columns) => (rows * columns) / (rows + columns) >= LEAST_GAIN,
    cast(out, x, slot, options) {
      const source = sourceOf(x, options)
      const { columnSums, accumulate = false } = options
      invariant((slot === undefined) === isByRows, 'fp8: a slot where one scale serves a matrix')
      if (slot === undefined) writeScales(out, source)
      const parts = source.grid[1]
      const partials = columnSums === undefined ? 0 : launcher.scratch(parts * source.columns * 4)
      castTo(source.kind, FORMAT[out.format])(
        source.grid,
        THREADS,
        out.rows.address,
        out.columns.address,
        (slot?.scale ?? out.rowScale).address,
        (slot?.scale ?? out.columnScale).address,
        slot?.amax.address ?? 0,
        partials,
        ...source.fields,
      )
      if (columnSums === undefined) return
      const { address, size } = columnSums
      addParts(Math.ceil(size / 32), 1024, address, partials, parts, size, Number(accumulate))
    },
    castsNorm: (columns) => columns % NORM_GROUP === 0 && columns <= NORM_GROUP * NORM_GROUPS * 32 * NORM_WARPS,
    castNorm(out, slot, x, { weight, bias, mean, rstd, eps }) {
      const { rowCount, columnCount } = x
      const isAligned = [x, weight, bias].every((t) => t === undefined || (t.isContiguous && t.address % 16 === 0))
      invariant(x.dtype === 'bf16' && rowCount % 16 === 0 && isAligned, 'fp8: a norm of whole bf16 rows in sixteens')
      let warps = 1
      while (columnCount > NORM_GROUP * NORM_GROUPS * 32 * warps) warps *= 2
      const groups = Math.ceil(columnCount / (NORM_GROUP * 32 * warps))
      normTo(warps, groups, Number(mean !== undefined))(
        Math.ceil(rowCount / NORM_ROWS),
        THREADS * warps,
        out.rows.address,
        out.columns.address,
        mean?.address ?? 0,
        rstd.address,
        slot.scale.address,
        slot.amax.address,
        x.address,
        weight.address,
        bias?.address ?? 0,
        rowCount,
        columnCount,
        eps,
      )
    },
    prime({ scale, inverse, amax }, format) {
      primeSlot(1, 1, scale.address, inverse.address, amax.address, FP8_LARGEST[format])
    },
    matmul(out, a, b, { isFast = false, ...options }) {
      const formats = { a: a.format, b: b.format, scaleA: a.scale, scaleB: b.scale, fastAccumulation: isFast }
      matmul.fp8(out, a.values, b.values, formats, options)
    },
    updateScales({ scale, inverse, amax, largest, history }) {
      const count = largest.size
      updateSlots(
        blocksFor(count, THREADS),
        THREADS,
        scale.address,
        inverse.address,
        amax.address,
        largest.address,
        history.address,
        count,
      )
    },
  }
}
