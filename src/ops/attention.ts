// attention: exact softmax attention by tiles with a running maximum and normaliser; the score matrix never exists.
// Causal, bidirectional, cross, grouped-query, sliding window, packed documents, soft-capped scores and a bias by relative
// position are attributes of one op.
import { emptyTensor } from '../core/allocator.ts'
import { ShapeError } from '../core/errors.ts'
import type { Gradients } from '../core/gradients.ts'
import type { AttentionOptions } from '../core/kernels.ts'
import type { Op } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import { expectShape, show, type Tensor } from '../core/tensor.ts'
import { cost, NO_COST } from './common.ts'
import { rotationOf } from './rope.ts'

type Inputs = { q: Tensor; k: Tensor; v: Tensor; docStart: Tensor | undefined; bias: Tensor | undefined }
type Outputs = { out: Tensor; lse: Tensor }
type Attributes = Omit<AttentionOptions, 'docStart' | 'bias'>

function options({ docStart, bias }: Inputs, attributes: Attributes): AttentionOptions {
  return { ...attributes, ...(docStart && { docStart }), ...(bias && { bias }) }
}

/** Asks the backward to undo the rotation of q and k where that spares a pass over their gradients. */
function withRotation({ q, k, v }: Inputs, all: AttentionOptions, gradients: Gradients): AttentionOptions {
  const unrotate = rotationOf(q, k, all)
  if (unrotate === undefined || !q.device.kernels.unrotatesAttention?.(q, k, v, { ...all, unrotate })) return all
  const views = v.base === q.base ? 3 : 2
  return gradients.anticipate(q.base!, views) ? { ...all, unrotate } : all
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
  savedForInput: ['q', 'k', 'v', 'docStart', 'bias', 'out', 'lse'],
  savedForWeight: [],
  backwardInput({ inputs, outputs, attributes }, gradients) {
    const { q, k, v, bias } = inputs
    const { kernels } = q.device
    const { out, lse } = outputs
    const dOut = gradients.of(out)
    const delta = emptyTensor(q.device, lse.shape, lse.dtype, 'workspace')
    const all = withRotation(inputs, options(inputs, attributes), gradients)
    const write = (dBias?: Tensor): void =>
      gradients.overwrite(q, (dq) =>
        gradients.overwrite(k, (dk) =>
          gradients.overwrite(v, (dv) =>
            kernels.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, all, dBias),
          ),
        ),
      )
    if (gradients.needs(bias)) gradients.overwrite(bias, write, 'f32')
    else write()
  },
  isCheap: false,
  cost({ q, k, v, bias }, { numHeads, headDim, isCausal, window }) {
    const [batch, queries] = q.shape as [number, number]
    const pairs = batch * numHeads * visiblePairs(queries, k.shape[1]!, isCausal, window)
    // Of the products; what is done to each score (softmax, cap, bias) is a few operations beside 4 headDim.
    return {
      forward: cost(4 * pairs * headDim, q, k, v, q, bias),
      // Scores again, then dP, dV, dQ, dK: five products instead of two.
      backwardInput: cost(10 * pairs * headDim, q, k, v, q, q, k, v, q, bias, bias),
      backwardWeight: NO_COST,
    }
  },
}

/**
 * out_i = sum_j softmax_j(s_ij) v_j over the keys j that query i may see, s_ij = scale q_i.k_j, or with the options
 * softcap tanh(scale q_i.k_j / softcap) + bias.
 * Saves `lse` [B, H, Tq] (log-sum-exp of the scores); the backward recomputes the probabilities from it.
 * @param q  [B, Tq, H*K] float; q, k and v may be column slices of one fused projection
 * @param k  [B, Tk, G*K], G divides H: query head h reads key head floor(h * G / H)
 * @param v  [B, Tk, G*K]
 * @param options.isCausal   default true; query i sees keys up to i + (Tk - Tq)
 * @param options.window     sliding window in tokens, 0 for none
 * @param options.docStart   [B, T] i32: index of the first position of each position's document (packing)
 * @param options.scale      default 1 / sqrt(K)
 * @param options.softcap    keeps scores within (-softcap, softcap) before bias and mask; default none
 * @param options.bias       [Tq + Tk - 1, H] float, by relative position: row j - i + Tq - 1 is added to the scores of
 *   query i and key j. T5's is an `embedding` of the bucket of each position; a constant tensor makes ALiBi.
 * @returns  [B, Tq, H*K]; a query that sees nothing gets zeros
 * @throws ShapeError if heads and widths do not fit, or softcap is not positive
 * @see Dao 2023, arXiv:2307.08691 (FlashAttention-2); Ainslie et al. 2023, arXiv:2305.13245 (grouped queries);
 *   Gemma Team 2024, arXiv:2408.00118 (soft cap); Raffel et al. 2020, arXiv:1910.10683 (relative bias)
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
    softcap?: number | undefined
    bias?: Tensor | undefined
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
  const { softcap, bias } = options
  if (softcap !== undefined && !(softcap > 0 && Number.isFinite(softcap))) {
    throw new ShapeError(`attention: softcap must be a positive number, got ${softcap}: leave it out for none`)
  }
  if (bias !== undefined) {
    const because = 'a row for each relative position and a column for each head'
    expectShape('attention', 'bias', bias, [queries + keys - 1, numHeads], because)
  }
  const scale = options.scale ?? 1 / Math.sqrt(headDim)
  return apply(
    attentionOp,
    q.device,
    { q, k, v, docStart: options.docStart, bias },
    { numHeads, numKeyValueHeads, headDim, scale, isCausal, window, ...(softcap !== undefined && { softcap }) },
  ).out
}
