// Casts, products and scales in fp8 on a card, each a call with tensors of its own: compared with the reference in
// fp8.test.ts, and watched by compute-sanitizer in all-kernels.ts.
import { standaloneTensor, tensorFrom } from '../../src/core/allocator.ts'
import type { Device } from '../../src/core/device.ts'
import type { Fp8CastOptions, Fp8Format, Fp8MatmulOptions, Fp8Matrix, Fp8Scaling, Fp8Slot } from '../../src/core/fp8.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { spread } from '../ops/fp8-support.ts'
import { normals, rounded } from '../ops/inputs.ts'

export interface CastCase {
  readonly rows: number
  /** Of the result. */
  readonly columns: number
  readonly format: Fp8Format
  readonly activation?: NonNullable<Fp8CastOptions['activation']>
  readonly sums?: 'written' | 'added'
  /** x is these columns of a wider matrix. */
  readonly from?: { readonly first: number; readonly of: number }
}

export const castCases: readonly CastCase[] = [
  { rows: 16, columns: 16, format: 'e4m3' },
  { rows: 128, columns: 128, format: 'e5m2', sums: 'written' },
  { rows: 272, columns: 208, format: 'e4m3', sums: 'added' },
  { rows: 272, columns: 208, format: 'e5m2', from: { first: 16, of: 240 } },
  { rows: 144, columns: 272, format: 'e4m3', activation: 'gelu' },
  { rows: 272, columns: 144, format: 'e5m2', activation: 'geluBackward', sums: 'added' },
  { rows: 144, columns: 208, format: 'e4m3', activation: 'swiglu' },
  { rows: 272, columns: 2 * 208, format: 'e5m2', activation: 'swigluBackward' },
  { rows: 256, columns: 384, format: 'e4m3' },
]

export interface CastResult extends Fp8Matrix {
  readonly slot: Fp8Slot | undefined
  readonly sums: Tensor | undefined
}

/** Widths of what is read, for a result of `columns`. */
function widths({ columns, activation }: CastCase): { x: number; other: number } {
  if (activation === 'swiglu') return { x: 2 * columns, other: 0 }
  if (activation === 'swigluBackward') return { x: columns / 2, other: columns }
  return { x: columns, other: activation === 'geluBackward' ? columns : 0 }
}

/** Primes a slot (scales by tensor) and casts; the outputs start as garbage. */
export function runCast(device: Device, scaling: Fp8Scaling, castCase: CastCase): CastResult {
  const { rows, columns, format, activation, sums, from } = castCase
  const name = JSON.stringify(castCase)
  const fp8 = device.fp8!
  const width = widths(castCase)
  const wide = tensorFrom(device, [rows, from?.of ?? width.x], spread(name, rows * (from?.of ?? width.x), 0.3))
  const x = from === undefined ? wide : wide.columns(from.first, columns)
  const other =
    width.other > 0
      ? tensorFrom(device, [rows, width.other], rounded(normals(`${name} other`, rows * width.other, 0, 1.5), 'bf16'))
      : undefined
  const f32 = (...values: number[]): Tensor => tensorFrom(device, [values.length], values, 'f32')
  const slot: Fp8Slot | undefined =
    scaling === 'tensor' ? { scale: f32(3), inverse: f32(3), amax: f32(0), isPrimed: false } : undefined
  const columnSums = sums && f32(...Array.from({ length: columns }, (_, i) => i / 8))
  const options: Fp8CastOptions = {
    ...(activation && { activation }),
    ...(other && { other }),
    ...(columnSums && { columnSums, accumulate: sums === 'added' }),
  }
  const out = {
    format,
    rows: standaloneTensor(device, [rows, columns], 'u8'),
    columns: standaloneTensor(device, [columns, rows], 'u8'),
    rowScale: slot?.inverse ?? standaloneTensor(device, [rows], 'f32'),
    columnScale: slot?.inverse ?? standaloneTensor(device, [columns], 'f32'),
  }
  if (slot !== undefined) {
    fp8.cast(out, x, slot, { ...(activation && { activation }), ...(other && { other }) })
    fp8.prime(slot, format)
  }
  fp8.cast(out, x, slot, options)
  return { ...out, slot, sums: columnSums }
}

export interface ProductCase {
  readonly rows: number
  readonly columns: number
  readonly inner: number
  readonly formats: readonly [Fp8Format, Fp8Format]
  readonly out: 'bf16' | 'f32'
  readonly options: readonly ('accumulate' | 'bias' | 'residual' | 'isFast')[]
}

export const productCases: readonly ProductCase[] = [
  { rows: 16, columns: 16, inner: 16, formats: ['e4m3', 'e4m3'], out: 'bf16', options: [] },
  { rows: 256, columns: 384, inner: 512, formats: ['e4m3', 'e4m3'], out: 'bf16', options: ['bias', 'isFast'] },
  {
    rows: 256,
    columns: 384,
    inner: 512,
    formats: ['e4m3', 'e4m3'],
    out: 'bf16',
    options: ['bias', 'residual', 'isFast'],
  },
  { rows: 128, columns: 256, inner: 4096, formats: ['e5m2', 'e4m3'], out: 'bf16', options: [] },
  { rows: 128, columns: 256, inner: 4096, formats: ['e5m2', 'e4m3'], out: 'bf16', options: ['accumulate'] },
  { rows: 128, columns: 192, inner: 8192, formats: ['e4m3', 'e5m2'], out: 'f32', options: [] },
  { rows: 128, columns: 192, inner: 8192, formats: ['e5m2', 'e4m3'], out: 'f32', options: ['isFast'] },
  { rows: 128, columns: 192, inner: 8192, formats: ['e5m2', 'e4m3'], out: 'f32', options: ['accumulate'] },
]

export interface ProductResult {
  readonly out: Tensor
  readonly a: Fp8Matrix
  readonly b: Fp8Matrix
  readonly before: Float64Array
  readonly bias: Float64Array | undefined
  readonly residual: Float64Array | undefined
}

export function runProduct(device: Device, scaling: Fp8Scaling, productCase: ProductCase): ProductResult {
  const { rows, columns, inner, formats, out: dtype, options } = productCase
  const name = JSON.stringify(productCase)
  const values = (what: string, count: number) => rounded(normals(`${name} ${what}`, count, 0, 1), 'bf16')
  const cast = (what: string, count: number, format: Fp8Format): Fp8Matrix => {
    const x = tensorFrom(device, [count, inner], values(what, count * inner))
    const f32 = (length: number) => tensorFrom(device, [length], new Float64Array(length).fill(1), 'f32')
    const slot =
      scaling === 'tensor'
        ? { scale: f32(1), inverse: f32(1), amax: tensorFrom(device, [1], [0], 'f32'), isPrimed: false }
        : undefined
    const matrix: Fp8Matrix = {
      format,
      rows: standaloneTensor(device, [count, inner], 'u8'),
      columns: standaloneTensor(device, [inner, count], 'u8'),
      rowScale: slot?.inverse ?? f32(count),
      columnScale: slot?.inverse ?? f32(inner),
    }
    device.fp8!.cast(matrix, x, slot, {})
    if (slot !== undefined) device.fp8!.prime(slot, format)
    device.fp8!.cast(matrix, x, slot, {})
    return matrix
  }
  const [a, b] = [cast('a', rows, formats[0]), cast('b', columns, formats[1])]
  const has = (option: (typeof options)[number]) => options.includes(option)
  const before = values('before', rows * columns)
  const out = tensorFrom(device, [rows, columns], before, dtype)
  const bias = has('bias') ? values('bias', columns) : undefined
  const residual = has('residual') ? values('residual', rows * columns) : undefined
  const given: Fp8MatmulOptions = {
    accumulate: has('accumulate'),
    isFast: has('isFast'),
    ...(bias && { bias: tensorFrom(device, [columns], bias, dtype) }),
    ...(residual && { residual: tensorFrom(device, [rows, columns], residual, dtype) }),
  }
  const factor = (m: Fp8Matrix) => ({ format: m.format, values: m.rows, scale: m.rowScale })
  device.fp8!.matmul(out, factor(a), factor(b), given)
  return { out, a, b, before, bias, residual }
}

export interface NormCase {
  readonly rows: number
  readonly columns: number
  readonly isLayerNorm: boolean
}

/** One warp a row, whole and not; two and four. */
export const normCases: readonly NormCase[] = [
  { rows: 16, columns: 16, isLayerNorm: true },
  { rows: 144, columns: 768, isLayerNorm: true },
  { rows: 272, columns: 1008, isLayerNorm: false },
  { rows: 48, columns: 2048, isLayerNorm: false },
  { rows: 48, columns: 4096, isLayerNorm: true },
]

export interface NormResult extends CastResult {
  readonly mean: Tensor | undefined
  readonly rstd: Tensor
}

/** Primes a slot and casts the result of a norm; scales by tensor. */
export function runNorm(device: Device, normCase: NormCase): NormResult {
  const { rows, columns, isLayerNorm } = normCase
  const of = (what: string, count: number, mean: number): Tensor =>
    tensorFrom(device, [count], rounded(normals(`${JSON.stringify(normCase)} ${what}`, count, mean, 1), 'bf16'))
  const f32 = (count: number, value: number): Tensor =>
    tensorFrom(device, [count], new Float64Array(count).fill(value), 'f32')
  const slot: Fp8Slot = { scale: f32(1, 3), inverse: f32(1, 3), amax: f32(1, 0), isPrimed: false }
  const x = of('x', rows * columns, 0.3).reshape(rows, columns)
  const rstd = f32(rows, Number.NaN)
  const mean = isLayerNorm ? f32(rows, Number.NaN) : undefined
  const norm = {
    weight: of('weight', columns, 1),
    rstd,
    eps: 1e-5,
    ...(mean && { mean, bias: of('bias', columns, 0) }),
  }
  const out: Fp8Matrix = {
    format: 'e4m3',
    rows: standaloneTensor(device, [rows, columns], 'u8'),
    columns: standaloneTensor(device, [columns, rows], 'u8'),
    rowScale: slot.inverse,
    columnScale: slot.inverse,
  }
  device.fp8!.castNorm(out, slot, x, norm)
  device.fp8!.prime(slot, 'e4m3')
  device.fp8!.castNorm(out, slot, x, norm)
  return { ...out, slot, sums: undefined, mean, rstd }
}
