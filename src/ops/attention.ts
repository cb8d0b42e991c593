// attention: exact softmax attention by tiles with a running maximum and normaliser; the score matrix never exists.
// Causal, bidirectional, cross, grouped-query, sliding window and packed documents are attributes of one op.
import { emptyTensor } from '../core/allocator.ts'
import { ShapeError } from '../core/errors.ts'
import type { AttentionOptions } from '../core/kernels.ts'
import type { Op } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import { expectShape, show, type Tensor } from '../core/tensor.ts'
import { cost, NO_COST } from './common.ts'

type Inputs = { q: Tensor; k: Tensor; v: Tensor; docStart: Tensor | undefined }
type Outputs = { out: Tensor; lse: Tensor }
type Attributes = Omit<AttentionOptions, 'docStart'>

function options({ docStart }: Inputs, attributes: Attributes): AttentionOptions {
  return docStart === undefined ? attributes : { ...attributes, docStart }
}

/** Query-key pairs that the mask allows, without documents (which only remove some). */
export function visiblePairs(queries: number, keys: number, isCausal: boolean, window: number): number {
  if (!isCausal) return queries * keys
  let pairs = 0
  for (let i = 0; i < queries; i++) {
    const visible = i + 1 + keys - queries
    pairs += Math.max(0, window > 0 ? Math.min(visible, window) : visible)
  }
  return pairs
}

export const attentionOp: Op<Inputs, Outputs, Attributes> = {
  id: 'attention',
  sliceable: ['q', 'k', 'v'],
  outputs: ({ q }, { numHeads }) => ({
    out: { shape: q.shape },
    lse: { shape: [q.shape[0]!, numHeads, q.shape[1]!], dtype: 'f32' },
  }),
  forward: (kernels, inputs, { out, lse }, attributes) =>
    kernels.attention(out, lse, inputs.q, inputs.k, inputs.v, options(inputs, attributes)),
  savedForInput: ['q', 'k', 'v', 'docStart', 'out', 'lse'],
  savedForWeight: [],
  backwardInput({ inputs, outputs, attributes }, gradients) {
    const { q, k, v } = inputs
    const { kernels } = q.device
    const dOut = gradients.of(outputs.out)
    const delta = emptyTensor(q.device, outputs.lse.shape, outputs.lse.dtype, 'workspace')
    gradients.overwrite(q, (dq) =>
      gradients.overwrite(k, (dk) =>
        gradients.overwrite(v, (dv) =>
          kernels.attentionBackward(
            dq,
            dk,
            dv,
            delta,
            dOut,
            outputs.out,
            outputs.lse,
            q,
            k,
            v,
            options(inputs, attributes),
          ),
        ),
      ),
    )
  },
  isCheap: false,
  cost({ q, k, v }, { numHeads, headDim, isCausal, window }) {
    const [batch, queries] = q.shape as [number, number]
    const pairs = batch * numHeads * visiblePairs(queries, k.shape[1]!, isCausal, window)
    return {
      forward: cost(4 * pairs * headDim, q, k, v, q),
      // Scores again, then dP, dV, dQ, dK: five products instead of two.
      backwardInput: cost(10 * pairs * headDim, q, k, v, q, q, k, v, q),
      backwardWeight: NO_COST,
    }
  },
}

/**
 * out_i = sum_j softmax_j(scale q_i.k_j) v_j over the keys j that query i may see.
 * Saves `lse` [B, H, Tq] (log-sum-exp of the scaled scores); the backward recomputes the probabilities from it.
 * @param q  [B, Tq, H*K] float; q, k and v may be column slices of one fused projection
 * @param k  [B, Tk, G*K], G divides H: query head h reads key head floor(h * G / H)
 * @param v  [B, Tk, G*K]
 * @param options.isCausal   default true; query i sees keys up to i + (Tk - Tq)
 * @param options.window     sliding window in tokens, 0 for none
 * @param options.docStart   [B, T] i32: index of the first position of each position's document (packing)
 * @param options.scale      default 1 / sqrt(K)
 * @returns  [B, Tq, H*K]; a query that sees nothing gets zeros
 * @throws ShapeError if heads and widths do not fit
 * @see Dao 2023, arXiv:2307.08691 (FlashAttention-2); Ainslie et al. 2023, arXiv:2305.13245 (grouped queries)
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: {
    numHeads: number
    numKeyValueHeads?: number
    isCausal?: boolean
    window?: number
    docStart?: Tensor | undefined
    scale?: number
  },
): Tensor {
  const { numHeads, numKeyValueHeads = options.numHeads } = options
  const headDim = q.columnCount / numHeads
  if (!Number.isInteger(headDim) || q.shape.length !== 3) {
    throw new ShapeError(`attention: q must be [B, Tq, heads * headDim] with ${numHeads} heads, got ${show(q.shape)}`)
  }
  if (numHeads % numKeyValueHeads !== 0) {
    throw new ShapeError(
      `attention: the number of heads must be a multiple of the number of key-value heads, got ${numHeads} and ${numKeyValueHeads}`,
    )
  }
  const [batch, queries] = q.shape as [number, number]
  const keys = k.shape[1] ?? 0
  expectShape('attention', 'k', k, [batch, keys, numKeyValueHeads * headDim], `to match q ${show(q.shape)}`)
  expectShape('attention', 'v', v, k.shape, 'to match k')
  const isCausal = options.isCausal ?? true
  const window = options.window ?? 0
  if (options.docStart) {
    expectShape('attention', 'docStart', options.docStart, [batch, keys])
    if (!isCausal || queries !== keys) {
      throw new ShapeError('attention: packed documents need causal self-attention with as many queries as keys')
    }
  }
  if (window > 0 && !isCausal) throw new ShapeError('attention: a sliding window needs causal attention')
  const scale = options.scale ?? 1 / Math.sqrt(headDim)
  return apply(
    attentionOp,
    q.device,
    { q, k, v, docStart: options.docStart },
    { numHeads, numKeyValueHeads, headDim, scale, isCausal, window },
  ).out
}
