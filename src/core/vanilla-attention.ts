// What attention by whole matrices of scores is made of. No model runs on it: it is there to be measured beside attention
// by tiles (`trainyard bench attention`).
import type { Tensor } from './tensor.ts'

export interface BatchedProductOptions {
  /** So many matrices lie one after the other in each operand. */
  readonly batch: number
  /** Each a is stored [K, M] (else [M, K]). */
  readonly transposeA?: boolean
  /** Each b is stored [N, K] (else [K, N]). */
  readonly transposeB?: boolean
}

/** Operands are contiguous, [batch * rows, columns], in the device's float type. */
export interface VanillaAttentionParts {
  /** out = op(a) op(b), matrix by matrix. */
  product(out: Tensor, a: Tensor, b: Tensor, options: BatchedProductOptions): void
  /** Each row of x becomes softmax(scale row). */
  softmax(x: Tensor, scale: number): void
  /** gradient [rows, N] of the probabilities becomes that of the scores: scale p (gradient - rowsum(p gradient)). */
  softmaxBackward(gradient: Tensor, p: Tensor, scale: number): void
}
