// Products of 8-bit floats: what a backend offers that has them, and what hangs on a weight whose products are made so.
// Sums are f32, masters and activations keep their types; only what enters a product is rounded to 8 bits, scaled so that
// its largest number is near the format's. Micikevicius et al. 2022, arXiv:2209.05433.
import type { Tensor } from './tensor.ts'

/** e4m3: 3 bits of mantissa, up to 448, for weights and activations. e5m2: 2 bits, up to 57344, for gradients. */
export type Fp8Format = 'e4m3' | 'e5m2'

/** The largest finite number of a format. */
export const FP8_LARGEST: Readonly<Record<Fp8Format, number>> = { e4m3: 448, e5m2: 57344 }

/**
 * tensor: one scale for a matrix, from its largest numbers in the steps before (delayed scaling: no pass over memory of
 * its own). row: one for each row of a factor, from its largest number now.
 */
export type Fp8Scaling = 'tensor' | 'row'

/** Sizes of products: tensor cores take fp8 factors whose rows are multiples of 16 bytes. */
export const FP8_MULTIPLE = 16

/** Steps whose largest numbers decide a scale. */
export const FP8_HISTORY = 16

/** One factor of a product: bytes [R, K] and what they are multiplied by, f32 [1] or [R]. */
export interface Fp8Factor {
  readonly format: Fp8Format
  readonly values: Tensor
  readonly scale: Tensor
}

/** A matrix [R, C] in fp8 in both orders, because products read factors along the summed dim only. */
export interface Fp8Matrix {
  readonly format: Fp8Format
  /** u8 [R, C]. */
  readonly rows: Tensor
  /** u8 [C, R]. */
  readonly columns: Tensor
  /** f32 [1], or [R] of `rows`: what the bytes' numbers are multiplied by. */
  readonly rowScale: Tensor
  /** f32 [1], or [C] of `columns`. */
  readonly columnScale: Tensor
}

/** The matrix as a factor [R, C]. */
export function rowsFactor({ format, rows, rowScale }: Omit<Fp8Matrix, 'columns' | 'columnScale'>): Fp8Factor {
  return { format, values: rows, scale: rowScale }
}

/** Its transpose as a factor [C, R]. */
export function columnsFactor({ format, columns, columnScale }: Omit<Fp8Matrix, 'rows' | 'rowScale'>): Fp8Factor {
  return { format, values: columns, scale: columnScale }
}

/** Delayed scaling of one kind of matrix: views of one entry each of an Fp8ScaleState. */
export interface Fp8Slot {
  /** f32 [1]: numbers are multiplied by it, a power of two, before they are rounded. */
  readonly scale: Tensor
  /** f32 [1]: 1 / scale. */
  readonly inverse: Tensor
  /** f32 [1]: the largest absolute value since the last update, NaN left out. */
  readonly amax: Tensor
  /** False until there is a scale: the first cast takes it from the numbers themselves. */
  isPrimed: boolean
}

/** Numbers from one slot's scale to the next: products want the address of a scale to be a multiple of 16. */
export const FP8_SLOT_STRIDE = 4

/** All slots of a model, f32, n entries. */
export interface Fp8ScaleState {
  /** [n * FP8_SLOT_STRIDE], the first of each stride used; the same of inverse and amax. */
  readonly scale: Tensor
  readonly inverse: Tensor
  readonly amax: Tensor
  /** [n]: FP8_LARGEST of the slot's format. */
  readonly largest: Tensor
  /** [n, FP8_HISTORY]: largest absolute values of the last steps, the newest first; 0 where there is none. */
  readonly history: Tensor
}

/** What is cast: x itself, or what an activation makes of it, so that the activation needs no pass of its own. */
export interface Fp8CastOptions {
  /**
   * gelu: gelu(x), tanh approximation. geluBackward: x gelu'(other), other the pre-activation [R, C].
   * swiglu: silu(gate) up of x = gate|up [R, 2C]. swigluBackward: dGate|dUp [R, 2F] of x = dOut [R, F], other = gate|up.
   */
  readonly activation?: 'gelu' | 'geluBackward' | 'swiglu' | 'swigluBackward'
  readonly other?: Tensor
  /** f32 [C] (+)= sum over the rows of what is cast, before rounding: the gradient of a bias. */
  readonly columnSums?: Tensor
  readonly accumulate?: boolean
}

/** A norm over the columns of x [R, C]: its parameters [C], where its statistics go, and what is added inside the root. */
export interface Fp8Norm {
  readonly weight: Tensor
  readonly bias?: Tensor
  readonly mean?: Tensor
  readonly rstd: Tensor
  readonly eps: number
}

export interface Fp8MatmulOptions {
  /** out += product. */
  readonly accumulate?: boolean
  /** [N], added to every row. */
  readonly bias?: Tensor
  /** [M, N], added to the product. May not alias `out`. */
  readonly residual?: Tensor
  /** Sums may stay in narrower accumulators of tensor cores: faster, with fewer bits. */
  readonly isFast?: boolean
}

export interface Fp8Kernels {
  readonly scaling: Fp8Scaling
  /** Whether products with a weight [rows, columns], both multiples of FP8_MULTIPLE, gain more than their casts cost. */
  gains(rows: number, columns: number): boolean
  /** Numbers rounded to nearest, ties to even, larger ones become the format's largest. With a slot its scale; without, scales by rows are made and written. */
  cast(out: Fp8Matrix, x: Tensor, slot: Fp8Slot | undefined, options: Fp8CastOptions): void
  /** Whether `castNorm` takes rows of so many columns. */
  castsNorm(columns: number): boolean
  /** The result of RMSNorm, or with `mean` and `bias` of LayerNorm, in fp8; mean and rstd f32 [R] as in Kernels. */
  castNorm(out: Fp8Matrix, slot: Fp8Slot, x: Tensor, norm: Fp8Norm): void
  /** The slot's scale from its amax, which a cast has left. */
  prime(slot: Fp8Slot, format: Fp8Format): void
  /** out [M, N] (+)= a b^T + bias + residual, a [M, K], b [N, K]. M, N and K must be multiples of FP8_MULTIPLE. */
  matmul(out: Tensor, a: Fp8Factor, b: Fp8Factor, options: Fp8MatmulOptions): void
  /**
   * Ends a step: amax enters the history (unless it is 0 or infinite) and becomes 0; the scale is the largest power of two that
   * brings the history's maximum to at most the format's largest number. This is the delayed scaling of NVIDIA's Transformer
   * Engine with amax_compute_algo max and margin 0, in powers of two.
   */
  updateScales(state: Fp8ScaleState): void
}

/** What a weight [R, C] needs for products in fp8; hangs on its Parameter. */
export interface Fp8Weight {
  /** e4m3, as the weight is stored. */
  readonly matrix: Fp8Matrix
  /** Absent where scales are made by rows. */
  readonly slots: { readonly weight: Fp8Slot; readonly input: Fp8Slot; readonly gradient: Fp8Slot } | undefined
  /** True when the weight has changed and `matrix` has not. */
  isStale: boolean
}

/** What a checkpoint keeps, so that a resumed run rounds as the run before it would have. */
export interface Fp8Saved {
  /** Names of the weights, in order; each has three scales: of itself, its input and its output's gradient. */
  readonly weights: readonly string[]
  readonly scale: readonly number[]
  /** FP8_HISTORY numbers a scale. */
  readonly history: readonly number[]
}
