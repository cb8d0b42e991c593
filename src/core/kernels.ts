// The kernel interface: one method per kernel, outputs first, every buffer given by the caller, so that no
// kernel allocates. A backend that lacks one does not compile. Conventions that hold throughout:
//   - `accumulate: true` means `out += result`, false means `out = result`; outputs may hold garbage before.
//   - a tensor [.., C] is read as a matrix of rowCount rows by C columns; only `matmul`, `fill`, `copy`,
//     `accumulate`, `sumRows` (its x), `rope` and the attention kernels accept column slices (rowStride > C), all
//     others need contiguous tensors.
//   - sums run in an order fixed by the shapes alone, never by the number of threads.
// Equations, FLOPs and bytes stand with the ops in src/ops.
import type { Tensor } from './tensor.ts'

export interface MatmulOptions {
  /** A is stored [K, M] (else [M, K]). */
  transposeA?: boolean
  /** B is stored [N, K] (else [K, N]). */
  transposeB?: boolean
  accumulate?: boolean
  /** [N], added to every row. */
  bias?: Tensor
  /** [M, N], added to the product. May not alias `out`. */
  residual?: Tensor
  /**
   * out = gelu(product + bias), tanh approximation; preActivation [M, N] = product + bias is kept for the backward.
   * Without accumulate, residual and geluBackward.
   */
  gelu?: { preActivation: Tensor }
  /** The pre-activation [M, N]: out = product * gelu'(pre-activation). Without accumulate, bias and residual. */
  geluBackward?: Tensor
  /** [M] (+)= sum over the rows of A, which is stored [K, M]: the gradient of a bias beside that of its weight. */
  sumOfA?: Tensor
  /** [N] (+)= sum over the rows of B, which is stored [K, N]. */
  sumOfB?: Tensor
}

export interface RopeOptions {
  /** Heads to rotate: the first numHeads * headDim columns of x. */
  numHeads: number
  headDim: number
  /** Rotate by the negative angle: the backward of rope. */
  inverse: boolean
}

export interface AttentionOptions {
  numHeads: number
  numKeyValueHeads: number
  headDim: number
  /** Multiplies q.k before the softmax; usually 1 / sqrt(headDim). */
  scale: number
  /** Query i sees key j only if j <= i + (Tk - Tq). */
  isCausal: boolean
  /** Sliding window: query i sees the last `window` keys up to its own (needs isCausal); 0 = no window. */
  window: number
  /** [B, Tk] i32: first position of the document that position i belongs to (needs Tq = Tk and isCausal). */
  docStart?: Tensor
  /** Keeps scaled scores within (-softcap, softcap): softcap tanh(score / softcap); absent: as they are. */
  softcap?: number
  /** [Tq + Tk - 1, H], added to the (capped) score of query i and key j in head h: row j - i + Tq - 1, column h. */
  bias?: Tensor
  /**
   * Rope has turned q and k, and the backward turns dq and dk back by these: positions i32 [B, T] (Tq = Tk), tables as in
   * `rope`. Only where `unrotatesAttention` says so.
   */
  unrotate?: { positions: Tensor; cos: Tensor; sin: Tensor }
}

export type CachedAttentionOptions = Pick<AttentionOptions, 'numHeads' | 'numKeyValueHeads' | 'headDim' | 'scale'>

export interface AdamOptions {
  beta1: number
  beta2: number
  eps: number
  /** Weight decay is decoupled (AdamW): w -= lr * weightDecay * w; or coupled (Adam): weightDecay * w joins the gradient. */
  coupledDecay: boolean
  /** 'paper' = Kingma & Ba and PyTorch; 'notes' = the lecture slide (docs/optimizers.md). */
  convention: 'paper' | 'notes'
}

/** A flat range of weights that Adam updates; every tensor has the same size. */
export interface AdamRange {
  weight: Tensor
  m: Tensor
  v: Tensor
  grad: Tensor
  /** Where the device has floats narrower than weights: gets the new weights rounded. */
  working?: Tensor | undefined
  weightDecay: number
}

/** A Philox key and the first counter: which random stream an element belongs to (core/random.ts). */
export interface RandomKey {
  keyLow: number
  keyHigh: number
}

/** Slots of the f64 tensor of step scalars that optimizer kernels read on the device. */
export const SCALAR = {
  lr: 0,
  /** 1 - beta1^t and 1 - beta2^t. */
  biasCorrection1: 1,
  biasCorrection2: 2,
  /** Sum of squares of all gradients, then its root, then the factor min(1, maxNorm / norm). */
  gradSumOfSquares: 3,
  gradNorm: 4,
  clipFactor: 5,
  /** 1 if every gradient is finite, else 0: the optimizer then leaves everything as it was. */
  isFinite: 6,
  /** 1 / trained tokens of the global batch: multiplies the loss and its gradient. */
  lossScale: 7,
  /** Gradients are made this many times too large, so that 16-bit floats can hold small ones; clipFactor undoes it. */
  gradScale: 8,
  /** Steps since gradScale last changed, overflows left until it shrinks, and steps skipped so far. */
  goodSteps: 9,
  hysteresisLeft: 10,
  skippedSteps: 11,
  count: 12,
} as const

/** How gradScale follows what overflows (Micikevicius et al. 2018, arXiv:1710.03740; hysteresis as in Megatron-LM). */
export interface LossScaleOptions {
  /** Multiplies gradScale after this many steps without an overflow. */
  growthFactor: number
  growthInterval: number
  /** Multiplies it after `hysteresis` overflows since it last shrank. */
  backoffFactor: number
  hysteresis: number
  /** Never below this. */
  minScale: number
}

export interface Kernels {
  /** out = value everywhere. */
  fill(out: Tensor, value: number): void
  /** out = x, row by row; both may be column slices of equal shape. */
  copy(out: Tensor, x: Tensor): void
  /** out = a + b. out may alias a or b. */
  add(out: Tensor, a: Tensor, b: Tensor): void
  /** out += x. */
  accumulate(out: Tensor, x: Tensor): void
  /** out = alpha * x + beta * y. out may alias x or y. */
  axpby(out: Tensor, x: Tensor, y: Tensor, alpha: number, beta: number): void
  /** out[N] (+)= sum over rows of x [M, N]. */
  sumRows(out: Tensor, x: Tensor, accumulate: boolean): void
  /** out (f64 [1]) (+)= scale[lossScale] * sum of x (f32 [N]), summed in f64; scalars as SCALAR. */
  scaledSum(out: Tensor, x: Tensor, scalars: Tensor, accumulate: boolean): void

  /** out [M, N] (+)= op(a) op(b) + bias + residual, and what the options say. */
  matmul(out: Tensor, a: Tensor, b: Tensor, options: MatmulOptions): void

  /** out [.., D] = table[ids[..]]. ids i32, checked by the caller to be in range. */
  embedding(out: Tensor, table: Tensor, ids: Tensor): void
  /** dTable[ids[n]] += dOut[n], in the order of n. */
  embeddingBackward(dTable: Tensor, dOut: Tensor, ids: Tensor): void

  /** out = x * rstd * weight, rstd [rows] = 1 / sqrt(mean(x^2) + eps). */
  rmsnorm(out: Tensor, rstd: Tensor, x: Tensor, weight: Tensor, eps: number): void
  rmsnormBackwardInput(dx: Tensor, dOut: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, accumulate: boolean): void
  rmsnormBackwardWeight(dWeight: Tensor, dOut: Tensor, x: Tensor, rstd: Tensor, accumulate: boolean): void
  /** Both halves of the backward; each gradient adds to what is there or overwrites it. `again` asks for the forward's `out` too. */
  rmsnormBackward(
    dx: Tensor,
    dWeight: Tensor,
    dOut: Tensor,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    accumulate: { dx: boolean; dWeight: boolean },
    again?: { out: Tensor; eps: number },
  ): void

  /** out = (x - mean) * rstd * weight + bias. */
  layernorm(out: Tensor, mean: Tensor, rstd: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: number): void
  layernormBackwardInput(
    dx: Tensor,
    dOut: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    accumulate: boolean,
  ): void
  layernormBackwardWeight(
    dWeight: Tensor,
    dBias: Tensor,
    dOut: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    accumulate: boolean,
  ): void
  /** Both halves of the backward, as above; sums [D] (+)= sum over rows of dx as it then is. */
  layernormBackward(
    dx: Tensor,
    dWeight: Tensor,
    dBias: Tensor,
    dOut: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    accumulate: { dx: boolean; dWeight: boolean; dBias: boolean },
    sumOfDx?: { sums: Tensor; accumulate: boolean },
    again?: { out: Tensor; bias: Tensor; eps: number },
  ): void

  /**
   * Rotates pairs (i, i + headDim/2) of each head by angle[position][i]; out may alias x; columns past the
   * rotated heads are copied when out is not x. cos, sin: [maxPositions, headDim/2]; positions i32 [rows].
   */
  rope(out: Tensor, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, options: RopeOptions): void

  /** out [.., F] = silu(gate) * up, gateUp [.., 2F] = gate columns then up columns. */
  swiglu(out: Tensor, gateUp: Tensor): void
  /** The forward's `out` is made again where it is given. */
  swigluBackward(dGateUp: Tensor, dOut: Tensor, gateUp: Tensor, out?: Tensor): void

  /** 'none' = exact (erf), 'tanh' = the GPT-2 approximation. dx may alias dOut. */
  gelu(out: Tensor, x: Tensor, approximate: 'none' | 'tanh'): void
  geluBackward(dx: Tensor, dOut: Tensor, x: Tensor, approximate: 'none' | 'tanh'): void

  /**
   * Exact softmax(scale q k^T) v by tiles with a running maximum and normaliser; never a Tq x Tk matrix. With softcap
   * and bias the scores are softcap tanh(scale q k^T / softcap) + bias.
   * q, out [B, Tq, H*K]; k, v [B, Tk, G*K] (q, k, v, out may be column slices); lse f32 [B, H, Tq] =
   * log of the sum of exponentials of the scores. A query that sees no key gets out = 0, lse = -inf.
   */
  attention(out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): void
  /**
   * Recomputes the probabilities from lse. delta f32 [B, H, Tq] is workspace: rowsum(dOut * out).
   * dq, dk, dv (may be column slices) are overwritten; dk and dv are summed over the query heads of a group.
   * dBias, of the options' bias, is overwritten where it is given: sums of score gradients over sequences and queries.
   */
  attentionBackward(
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    delta: Tensor,
    dOut: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: AttentionOptions,
    dBias?: Tensor,
  ): void
  /** Whether `attentionBackward` would do `unrotate` of these options on its way; absent where it never does. */
  unrotatesAttention?(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): boolean

  /**
   * losses f32 [rows] = logsumexp(logits row) - logits[target], 0 where target is -1. With `scalars`, logits
   * [rows, V] are replaced by their gradient: (softmax - onehot) * lossScale * gradScale, 0 where target is -1.
   */
  softmaxCrossEntropy(losses: Tensor, logits: Tensor, targets: Tensor, scalars: Tensor | undefined): void

  /**
   * out = keep ? x / (1 - p) : 0 with keep from Philox(key) at counter (sampleIndex[b] * T + t) * D + d, so
   * that the mask does not depend on how a batch is split. x [B, T, D]; sampleIndex i32 [B, 2] (low, high).
   * The backward is the same kernel on dOut. out may alias x.
   */
  dropout(out: Tensor, x: Tensor, sampleIndex: Tensor, p: number, key: RandomKey): void

  /** out = mean + std * normal(Philox(key), counter start + i), the polynomial of core/random.ts bit for bit. */
  randomNormal(out: Tensor, key: RandomKey, start: number, mean: number, std: number): void

  /** scalars[gradSumOfSquares] = sum of the squares of all xs, in f64. */
  sumOfSquares(scalars: Tensor, xs: readonly Tensor[]): void
  /** gradNorm (of the gradients / gradScale), clipFactor (min(1, maxNorm / norm) / gradScale) and isFinite; maxNorm 0 clips nothing. */
  clipFactor(scalars: Tensor, maxNorm: number): void
  /** gradScale for the next step, from whether this one was finite. */
  updateLossScale(scalars: Tensor, options: LossScaleOptions): void
  /**
   * Adam or AdamW over flat ranges; reads lr, bias corrections, clipFactor and isFinite from scalars. In this and the
   * other updates `working`, where the device has floats narrower than weights, gets the new weights rounded.
   */
  adam(ranges: readonly AdamRange[], scalars: Tensor, options: AdamOptions): void
  /** v = momentum * v + g; w -= lr * (nesterov ? g + momentum * v : v); decoupled decay. */
  sgd(
    weight: Tensor,
    velocity: Tensor | undefined,
    grad: Tensor,
    scalars: Tensor,
    options: { momentum: number; nesterov: boolean; weightDecay: number },
    working?: Tensor,
  ): void
  /** Chen et al. 2023, arXiv:2302.06675. */
  lion(
    weight: Tensor,
    m: Tensor,
    grad: Tensor,
    scalars: Tensor,
    options: { beta1: number; beta2: number; weightDecay: number },
    working?: Tensor,
  ): void
  /** m = momentum * m + g (g clipped); out = nesterov ? g + momentum * m : m. */
  momentum(
    out: Tensor,
    m: Tensor,
    grad: Tensor,
    scalars: Tensor,
    options: { momentum: number; nesterov: boolean },
  ): void
  /** out = x / (frobenius norm of x + eps). */
  normalize(out: Tensor, x: Tensor, eps: number): void
  /** w = w * (1 - lr * weightDecay) - lr * scale * update, unless isFinite is 0. */
  applyUpdate(
    weight: Tensor,
    update: Tensor,
    scalars: Tensor,
    options: { scale: number; weightDecay: number },
    working?: Tensor,
  ): void

  /**
   * keys, values [B, C, G*K] take k, v [B, T, G*K] (maybe column slices) at positions lengths[b] + t of sequence b
   * (lengths i32 [B]); what no longer fits goes to the last position.
   */
  cacheAppend(keys: Tensor, values: Tensor, k: Tensor, v: Tensor, lengths: Tensor): void
  /**
   * Attention of one query a sequence, q [B, 1, H*K] (maybe a column slice), over positions 0 .. lengths[b] of keys,
   * values [B, C, G*K], at most all of them. lse f32 [B, H, 1] as in `attention`.
   */
  attentionCached(
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    options: CachedAttentionOptions,
  ): void
  /**
   * tokens[b] = first index of the largest of logits row b [B, V]; lengths[b] grows by one up to `capacity`; the tokens
   * become row made[0] of history [N, B] where there is one, and made[0] grows by one. All i32.
   */
  greedyToken(tokens: Tensor, lengths: Tensor, history: Tensor, made: Tensor, logits: Tensor, capacity: number): void
}
