// What the ops with products in fp8 share: when a product is made so, factors in memory of the step, and casts.
import { emptyTensor } from '../core/allocator.ts'
import {
  columnsFactor,
  FP8_MULTIPLE,
  type Fp8CastOptions,
  type Fp8Factor,
  type Fp8Format,
  type Fp8Kernels,
  type Fp8Matrix,
  type Fp8Norm,
  type Fp8Slot,
  type Fp8Weight,
  rowsFactor,
} from '../core/fp8.ts'
import type { OutputSpec } from '../core/op.ts'
import { Parameter } from '../core/parameter.ts'
import { currentTape } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'

/** What the products of this weight with x need to be in fp8; undefined where they are not. Only training rounds to fp8. */
export function fp8Of(weight: Tensor, x: Tensor): Fp8Weight | undefined {
  if (!(weight instanceof Parameter) || weight.fp8Form === undefined || x.rowCount % FP8_MULTIPLE !== 0)
    return undefined
  return currentTape()?.isRecording ? weight.fp8Form : undefined
}

export function kernelsOf({ device }: Tensor): Fp8Kernels {
  return device.fp8!
}

/** The weight as the factor [out, in] or [in, out]. */
export function weightFactor(
  { matrix }: Fp8Weight,
  stored: 'out-in' | 'in-out',
  wanted: 'out-in' | 'in-out',
): Fp8Factor {
  return stored === wanted ? rowsFactor(matrix) : columnsFactor(matrix)
}

/** What an op keeps of a factor x [R, C] for the product that makes a weight's gradient: x transposed. */
export type SavedColumns = { columns: Tensor; columnScale: Tensor | undefined }

/** Outputs of an op that keep the transpose of [R, C]; scales by rows come with it. */
export function savedColumnsSpec(
  rows: number,
  columns: number,
  { slots }: Fp8Weight,
): [OutputSpec, OutputSpec | undefined] {
  return [{ shape: [columns, rows], dtype: 'u8' }, slots === undefined ? { shape: [columns], dtype: 'f32' } : undefined]
}

/** Casts x, or what an activation makes of it, into a matrix [R, C] in workspace memory but for the given parts. */
export function castFp8(
  x: Tensor,
  [rows, columns]: readonly [number, number],
  format: Fp8Format,
  slot: Fp8Slot | undefined,
  options: Fp8CastOptions = {},
  saved?: SavedColumns,
): Fp8Matrix {
  const { device } = x
  const kernels = kernelsOf(x)
  const workspace = (shape: number[], dtype: 'u8' | 'f32'): Tensor => emptyTensor(device, shape, dtype, 'workspace')
  const out: Fp8Matrix = {
    format,
    rows: workspace([rows, columns], 'u8'),
    columns: saved?.columns ?? workspace([columns, rows], 'u8'),
    rowScale: slot?.inverse ?? workspace([rows], 'f32'),
    columnScale: slot?.inverse ?? saved?.columnScale ?? workspace([columns], 'f32'),
  }
  const { columnSums: _, ...plain } = options
  primed(kernels, slot, format, () => kernels.cast(out, x, slot, plain))
  kernels.cast(out, x, slot, options)
  return out
}

/** Gives a slot that has no scale yet its first one, from what `cast` casts. */
export function primed(kernels: Fp8Kernels, slot: Fp8Slot | undefined, format: Fp8Format, cast: () => void): void {
  if (slot === undefined || slot.isPrimed) return
  cast()
  kernels.prime(slot, format)
  slot.isPrimed = true
}

/** What a norm needs to make its result in fp8, for products with this weight that alone will read it; else undefined. */
export function fp8OfNorm(to: Tensor | undefined, x: Tensor): Fp8Weight | undefined {
  const fp8 = to && fp8Of(to, x)
  return fp8?.slots !== undefined && kernelsOf(x).castsNorm(x.columnCount) ? fp8 : undefined
}

/** The result of a norm in fp8, with its transpose in `columns`. */
export function castNormFp8(x: Tensor, columns: Tensor, { slots }: Fp8Weight, norm: Fp8Norm): Fp8Matrix {
  const kernels = kernelsOf(x)
  const slot = slots!.input
  const rows = emptyTensor(x.device, [x.rowCount, x.columnCount], 'u8', 'workspace')
  const out: Fp8Matrix = { format: 'e4m3', rows, columns, rowScale: slot.inverse, columnScale: slot.inverse }
  const cast = (): void => kernels.castNorm(out, slot, x, norm)
  primed(kernels, slot, 'e4m3', cast)
  cast()
  return out
}
