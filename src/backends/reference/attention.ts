// Reference kernels: softmax attention and its gradients, one query at a time: a row of scores exists, a matrix of
// them never does.
//     s_j = scale q.k_j over the keys j that the query sees,  lse = log sum_j exp(s_j),  p_j = exp(s_j - lse)
//     out = sum_j p_j v_j
//     dv_j += p_j dOut,  ds_j = p_j (dOut.v_j - dOut.out),  dq = scale sum_j ds_j k_j,  dk_j += scale ds_j q
// With a soft cap c and a bias: s_j = c t_j + bias_j, t_j = tanh(scale q.k_j / c); dbias_j += ds_j, and dq and dk_j get
// (1 - t_j^2) ds_j instead of ds_j.
import type { AttentionOptions, Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { elementsOf, slicedRowsOf } from './memory.ts'

/** The heads of [B, T, heads * headDim], in place: `heads(b, t, h)` is a vector [headDim]. */
function headsOf(tensor: Tensor, headDim: number): (b: number, t: number, h: number) => Float64Array {
  const length = tensor.shape[1]!
  const rows = slicedRowsOf(tensor).map((row) =>
    Array.from({ length: tensor.columnCount / headDim }, (_, h) => row.subarray(h * headDim, (h + 1) * headDim)),
  )
  return (b, t, h) => rows[b * length + t][h]
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i]
  return sum
}

/** y += factor x */
function addScaled(y: Float64Array, factor: number, x: Float64Array): void {
  for (let i = 0; i < y.length; i++) y[i] += factor * x[i]
}

/** The keys [first, end) that query i of sequence b sees. */
function visibleKeys(
  options: AttentionOptions,
  b: number,
  i: number,
  queries: number,
  keys: number,
): { first: number; end: number } {
  const own = i + keys - queries
  let first = 0
  if (options.window > 0) first = Math.max(first, own - options.window + 1)
  if (options.docStart !== undefined) first = Math.max(first, elementsOf(options.docStart)[b * keys + i])
  return { first, end: options.isCausal ? Math.min(keys, own + 1) : keys }
}

/** Calls `body` for every query head: sequence b, head h with its key-value head g, query i, row of lse. */
function forEachQuery(
  q: Tensor,
  k: Tensor,
  options: AttentionOptions,
  body: (at: {
    b: number
    h: number
    g: number
    i: number
    row: number
    first: number
    end: number
    queries: number
  }) => void,
): void {
  const [batch, queries] = q.shape as [number, number]
  const keys = k.shape[1]!
  const { numHeads, numKeyValueHeads } = options
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < numHeads; h++) {
      const g = Math.floor((h * numKeyValueHeads) / numHeads)
      for (let i = 0; i < queries; i++) {
        const row = (b * numHeads + h) * queries + i
        body({ b, h, g, i, row, queries, ...visibleKeys(options, b, i, queries, keys) })
      }
    }
  }
}

/** The score of a query and a key from their scaled product, and the derivative of one by the other. */
function scoreOf(
  product: number,
  { softcap, bias }: AttentionOptions,
  at: { h: number; i: number; queries: number },
  j: number,
): { score: number; slope: number } {
  const added = bias === undefined ? 0 : elementsOf(bias)[biasIndex(bias, at, j)]
  if (softcap === undefined) return { score: product + added, slope: 1 }
  const t = Math.tanh(product / softcap)
  return { score: softcap * t + added, slope: 1 - t * t }
}

function biasIndex(bias: Tensor, { h, i, queries }: { h: number; i: number; queries: number }, j: number): number {
  return (j - i + queries - 1) * bias.columnCount + h
}

export const attentionKernels: Pick<Kernels, 'attention' | 'attentionBackward'> = {
  attention(out, lse, q, k, v, options) {
    const [y, query, key, value] = [out, q, k, v].map((tensor) => headsOf(tensor, options.headDim))
    const logSums = elementsOf(lse)
    forEachQuery(q, k, options, (at) => {
      const { b, h, g, i, row, first, end } = at
      const scores: number[] = []
      for (let j = first; j < end; j++) {
        scores.push(scoreOf(options.scale * dot(query(b, i, h), key(b, j, g)), options, at, j).score)
      }
      const top = scores.reduce((a, s) => Math.max(a, s), Number.NEGATIVE_INFINITY)
      const sum = scores.reduce((total, s) => total + Math.exp(s - top), 0)
      y(b, i, h).fill(0)
      logSums[row] = scores.length === 0 ? Number.NEGATIVE_INFINITY : top + Math.log(sum)
      scores.forEach((s, n) => {
        addScaled(y(b, i, h), Math.exp(s - logSums[row]), value(b, first + n, g))
      })
    })
  },

  attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options, dBias) {
    const heads = [dq, dk, dv, dOut, out, q, k, v].map((tensor) => headsOf(tensor, options.headDim))
    const [dQuery, dKey, dValue, dy, y, query, key, value] = heads
    const logSums = elementsOf(lse)
    const deltas = elementsOf(delta)
    for (const tensor of [dq, dk, dv]) for (const row of slicedRowsOf(tensor)) row.fill(0)
    const biasSums = dBias === undefined ? undefined : elementsOf(dBias).fill(0)
    forEachQuery(q, k, options, (at) => {
      const { b, h, g, i, row, first, end } = at
      deltas[row] = dot(dy(b, i, h), y(b, i, h))
      for (let j = first; j < end; j++) {
        const product = options.scale * dot(query(b, i, h), key(b, j, g))
        const { score, slope } = scoreOf(product, options, at, j)
        const p = Math.exp(score - logSums[row])
        const ds = p * (dot(dy(b, i, h), value(b, j, g)) - deltas[row])
        if (biasSums !== undefined) biasSums[biasIndex(dBias!, at, j)] += ds
        addScaled(dValue(b, j, g), p, dy(b, i, h))
        addScaled(dQuery(b, i, h), options.scale * slope * ds, key(b, j, g))
        addScaled(dKey(b, j, g), options.scale * slope * ds, query(b, i, h))
      }
    })
  },
}
