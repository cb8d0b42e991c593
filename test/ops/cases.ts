// The table: what every op is tried with. Shapes are multiples of nothing, so that every tail of every kernel runs.
// A new op in src/ops needs at least one row here; ops.test.ts says so if it has none.
import type { Parameter } from '../../src/core/parameter.ts'
import { randomKey } from '../../src/core/random.ts'
import { add } from '../../src/ops/add.ts'
import { attention } from '../../src/ops/attention.ts'
import { crossEntropy } from '../../src/ops/cross-entropy.ts'
import { dropout } from '../../src/ops/dropout.ts'
import { embedding } from '../../src/ops/embedding.ts'
import { gelu } from '../../src/ops/gelu.ts'
import { geluMlp } from '../../src/ops/gelu-mlp.ts'
import { layernorm } from '../../src/ops/layernorm.ts'
import { linear } from '../../src/ops/linear.ts'
import { rmsnorm } from '../../src/ops/rmsnorm.ts'
import { rope } from '../../src/ops/rope.ts'
import { swiglu } from '../../src/ops/swiglu.ts'
import type { OpCase } from './harness.ts'
import type { InputSpec } from './inputs.ts'

const activation = (shape: number[], columns?: { from: number; of: number }): InputSpec =>
  columns === undefined ? { kind: 'activation', shape } : { kind: 'activation', shape, columns }
const parameter = (shape: number[], mean = 0): InputSpec => ({ kind: 'parameter', shape, mean })
const integers = (shape: number[], values: number[]): InputSpec => ({ kind: 'integers', shape, values })
/** `count` integers in [0, below), spread out, with repeats once count is above below. */
const spread = (count: number, below: number): number[] => Array.from({ length: count }, (_, i) => (i * 7 + 3) % below)

const adds: OpCase[] = [
  {
    op: 'add',
    name: 'add',
    inputs: { a: activation([3, 7, 13]), b: activation([3, 7, 13]) },
    run: (t) => add(t.a, t.b),
  },
  { op: 'add', name: 'add a tensor to itself', inputs: { a: activation([2, 5]) }, run: (t) => add(t.a, t.a) },
]

const linears: OpCase[] = [
  {
    op: 'linear',
    name: 'linear [out, in]',
    inputs: { x: activation([3, 7, 13]), weight: parameter([11, 13]) },
    run: (t) => linear(t.x, t.weight),
  },
  {
    op: 'linear',
    name: 'linear [in, out] with bias and residual',
    inputs: {
      x: activation([3, 7, 13]),
      weight: parameter([13, 11]),
      bias: parameter([11]),
      residual: activation([3, 7, 11]),
    },
    run: (t) => linear(t.x, t.weight, { bias: t.bias, residual: t.residual, layout: 'in-out' }),
  },
  {
    op: 'linear',
    name: 'linear on a column slice with bias',
    inputs: { x: activation([2, 5, 9], { from: 4, of: 17 }), weight: parameter([6, 9]), bias: parameter([6]) },
    run: (t) => linear(t.x, t.weight, { bias: t.bias }),
  },
  {
    op: 'linear',
    name: 'linear whose residual is its input',
    inputs: { x: activation([4, 10]), weight: parameter([10, 10]) },
    run: (t) => linear(t.x, t.weight, { residual: t.x }),
  },
  {
    op: 'linear',
    name: 'linear, one row and one feature',
    inputs: { x: activation([1, 3]), weight: parameter([1, 3]) },
    run: (t) => linear(t.x, t.weight),
  },
  {
    op: 'linear',
    name: 'linear over several tiles',
    inputs: { x: activation([2, 37, 133]), weight: parameter([151, 133]), bias: parameter([151]) },
    run: (t) => linear(t.x, t.weight, { bias: t.bias }),
  },
]

const embeddings: OpCase[] = [
  {
    op: 'embedding',
    name: 'embedding with repeated ids',
    inputs: { table: parameter([5, 13]), ids: integers([3, 7], spread(21, 4)) },
    run: (t) => embedding(t.table as Parameter, t.ids),
  },
  {
    op: 'embedding',
    name: 'embedding with unused rows',
    inputs: { table: parameter([97, 35]), ids: integers([2, 3], [96, 0, 41, 96, 7, 40]) },
    run: (t) => embedding(t.table as Parameter, t.ids),
  },
]

const table = (shape: number[], f: (angle: number) => number): InputSpec => ({
  kind: 'table',
  shape,
  value: (i) => f(0.37 * i + 0.1),
})

const norms: OpCase[] = [
  {
    op: 'rmsnorm',
    name: 'rmsnorm',
    inputs: { x: activation([3, 7, 13]), weight: parameter([13], 1) },
    run: (t) => rmsnorm(t.x, t.weight, 1e-5),
  },
  {
    op: 'rmsnorm',
    name: 'rmsnorm, many rows, large eps',
    inputs: { x: activation([131, 67]), weight: parameter([67], 1) },
    run: (t) => rmsnorm(t.x, t.weight, 0.3),
  },
  {
    op: 'layernorm',
    name: 'layernorm',
    inputs: { x: activation([3, 7, 13]), weight: parameter([13], 1), bias: parameter([13]) },
    run: (t) => layernorm(t.x, t.weight, t.bias),
  },
  {
    op: 'layernorm',
    name: 'layernorm, many rows, large eps',
    inputs: { x: activation([131, 67]), weight: parameter([67], 1), bias: parameter([67]) },
    run: (t) => layernorm(t.x, t.weight, t.bias, 0.3),
  },
  {
    op: 'rmsnorm',
    name: 'rmsnorm, frozen weight',
    inputs: { x: activation([5, 13]), weight: table([13], Math.cos) },
    run: (t) => rmsnorm(t.x, t.weight),
  },
  {
    op: 'rmsnorm',
    name: 'rmsnorm of an input without gradient',
    inputs: { x: table([5, 13], Math.sin), weight: parameter([13], 1) },
    run: (t) => rmsnorm(t.x, t.weight),
  },
  {
    op: 'layernorm',
    name: 'layernorm, frozen weight and bias',
    inputs: { x: activation([5, 13]), weight: table([13], Math.cos), bias: table([13], Math.sin) },
    run: (t) => layernorm(t.x, t.weight, t.bias),
  },
  {
    op: 'layernorm',
    name: 'layernorm, frozen weight',
    inputs: { x: activation([5, 13]), weight: table([13], Math.cos), bias: parameter([13]) },
    run: (t) => layernorm(t.x, t.weight, t.bias),
  },
  {
    op: 'layernorm',
    name: 'layernorm of an input without gradient',
    inputs: { x: table([5, 13], Math.sin), weight: parameter([13], 1), bias: parameter([13]) },
    run: (t) => layernorm(t.x, t.weight, t.bias),
  },
]

/** Any smooth table will do: the kernel's meaning does not depend on cos^2 + sin^2 = 1. */
const rotary = (positions: number, half: number) => ({
  cos: { ...table([positions, half], Math.cos), dtype: 'f32' as const },
  sin: { ...table([positions, half], Math.sin), dtype: 'f32' as const },
})

const ropes: OpCase[] = [
  {
    op: 'rope',
    name: 'rope on every column',
    inputs: { x: activation([2, 7, 18]), positions: integers([2, 7], spread(14, 9)), ...rotary(9, 3) },
    run: (t) => rope(t.x, t.positions, { cos: t.cos, sin: t.sin }, { numHeads: 3, headDim: 6 }),
    isInPlace: true,
  },
  {
    op: 'rope',
    name: 'rope on the leading heads of a fused row',
    inputs: { x: activation([3, 5, 32]), positions: integers([3, 5], spread(15, 8)), ...rotary(8, 5) },
    run: (t) => rope(t.x, t.positions, { cos: t.cos, sin: t.sin }, { numHeads: 2, headDim: 10 }),
    isInPlace: true,
  },
  {
    op: 'rope',
    name: 'rope on a column slice',
    inputs: {
      x: activation([2, 5, 12], { from: 3, of: 19 }),
      positions: integers([2, 5], spread(10, 6)),
      ...rotary(6, 3),
    },
    run: (t) => rope(t.x, t.positions, { cos: t.cos, sin: t.sin }, { numHeads: 2, headDim: 6 }),
    isInPlace: true,
  },
]

/** Causal attention of heads that a rope has turned, all in one fused row: its backward turns their gradients back. */
const turned = (headDim: number, heads: number, groups: number, [batch, seqLen]: [number, number]): OpCase => ({
  op: 'attention',
  name: `attention of ${heads} heads of ${headDim} and ${groups} groups turned by rope`,
  inputs: {
    x: activation([batch, seqLen, (heads + 2 * groups) * headDim]),
    positions: integers([batch, seqLen], spread(batch * seqLen, seqLen)),
    ...rotary(seqLen, headDim / 2),
  },
  run: (t) => {
    const turn = { numHeads: heads + groups, headDim }
    const qkv = rope(t.x, t.positions, { cos: t.cos, sin: t.sin }, turn)
    const [q, k, v] = [0, heads, heads + groups].map((from, i) =>
      qkv.columns(from * headDim, (i === 0 ? heads : groups) * headDim),
    )
    return attention(q!, k!, v!, { numHeads: heads, numKeyValueHeads: groups })
  },
  isInPlace: true,
})
const turnedAttentions = [
  turned(6, 3, 1, [2, 7]),
  turned(16, 2, 2, [2, 9]),
  turned(64, 2, 1, [2, 13]),
  turned(128, 2, 1, [1, 70]),
  { ...turned(64, 4, 2, [2, 200]), isTooLargeForFiniteDifferences: true },
  { ...turned(128, 2, 2, [2, 190]), isTooLargeForFiniteDifferences: true },
]

const activations: OpCase[] = [
  { op: 'swiglu', name: 'swiglu', inputs: { gateUp: activation([3, 7, 26]) }, run: (t) => swiglu(t.gateUp) },
  { op: 'swiglu', name: 'swiglu, long rows', inputs: { gateUp: activation([5, 134]) }, run: (t) => swiglu(t.gateUp) },
  { op: 'gelu', name: 'gelu, exact', inputs: { x: activation([3, 7, 13]) }, run: (t) => gelu(t.x, 'none') },
  {
    op: 'geluMlp',
    name: 'geluMlp with residual',
    inputs: {
      x: activation([3, 7, 13]),
      weight1: parameter([13, 19]),
      bias1: parameter([19]),
      weight2: parameter([19, 11]),
      bias2: parameter([11]),
      residual: activation([3, 7, 11]),
    },
    run: (t) => geluMlp(t.x, { weight: t.weight1, bias: t.bias1 }, { weight: t.weight2, bias: t.bias2 }, t.residual),
  },
  {
    op: 'geluMlp',
    name: 'geluMlp, several tiles',
    inputs: {
      x: activation([2, 37, 40]),
      weight1: parameter([40, 136]),
      bias1: parameter([136]),
      weight2: parameter([136, 40]),
      bias2: parameter([40]),
    },
    run: (t) => geluMlp(t.x, { weight: t.weight1, bias: t.bias1 }, { weight: t.weight2, bias: t.bias2 }),
  },
  { op: 'gelu', name: 'gelu, tanh', inputs: { x: activation([3, 7, 13]) }, run: (t) => gelu(t.x, 'tanh') },
]

const key = randomKey(5, 'dropout of the op table')
const dropouts: OpCase[] = [
  {
    op: 'dropout',
    name: 'dropout',
    inputs: { x: activation([3, 7, 13]), sampleIndex: integers([3, 2], [0, 0, 41, 0, 5, 0]) },
    run: (t) => dropout(t.x, t.sampleIndex, { p: 0.25, key }),
  },
  {
    op: 'dropout',
    name: 'dropout, sample numbers beyond 32 bits',
    // The low word of 2^33 + 4294967290 as i32 is -6.
    inputs: { x: activation([2, 5, 9]), sampleIndex: integers([2, 2], [7, 3, -6, 2]) },
    run: (t) => dropout(t.x, t.sampleIndex, { p: 0.6, key }),
  },
]

const attentions: OpCase[] = [
  {
    op: 'attention',
    name: 'attention, causal',
    inputs: { q: activation([2, 7, 15]), k: activation([2, 7, 15]), v: activation([2, 7, 15]) },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 3 }),
  },
  {
    op: 'attention',
    name: 'attention, grouped queries',
    inputs: { q: activation([2, 9, 30]), k: activation([2, 9, 10]), v: activation([2, 9, 10]) },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 6, numKeyValueHeads: 2 }),
  },
  {
    op: 'attention',
    name: 'attention, bidirectional and cross, own scale',
    inputs: { q: activation([2, 5, 14]), k: activation([2, 11, 14]), v: activation([2, 11, 14]) },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 2, isCausal: false, scale: 0.7 }),
  },
  {
    op: 'attention',
    name: 'attention, causal with more keys than queries',
    inputs: { q: activation([1, 5, 6]), k: activation([1, 12, 6]), v: activation([1, 12, 6]) },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 1 }),
  },
  {
    op: 'attention',
    name: 'attention, causal with queries that see nothing',
    // Enough heads that 16 bits stay below 1e-2: the first queries' dq are differences of rounded outputs, over 1e-2 in 0.8 % of draws of two heads of 3.
    inputs: { q: activation([2, 9, 30]), k: activation([2, 6, 30]), v: activation([2, 6, 30]) },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 5 }),
  },
  {
    op: 'attention',
    name: 'attention, one query at a time (decoding)',
    inputs: { q: activation([2, 1, 20]), k: activation([2, 19, 10]), v: activation([2, 19, 10]) },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 4, numKeyValueHeads: 2 }),
  },
  {
    op: 'attention',
    name: 'attention, sliding window',
    inputs: { q: activation([2, 13, 10]), k: activation([2, 13, 10]), v: activation([2, 13, 10]) },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 2, window: 4 }),
  },
  {
    op: 'attention',
    name: 'attention, packed documents',
    inputs: {
      q: activation([2, 9, 10]),
      k: activation([2, 9, 10]),
      v: activation([2, 9, 10]),
      docStart: integers([2, 9], [0, 0, 0, 3, 3, 5, 5, 5, 5, 0, 1, 1, 1, 1, 1, 1, 7, 7]),
    },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 2, docStart: t.docStart }),
  },
  {
    op: 'attention',
    name: 'attention on columns of one fused tensor',
    // 4 query heads and 2 key-value heads of 5: columns 0-19 are q, 20-29 k, 30-39 v.
    inputs: { qkv: activation([2, 7, 40]) },
    run: ({ qkv }) =>
      attention(qkv.columns(0, 20), qkv.columns(20, 10), qkv.columns(30, 10), { numHeads: 4, numKeyValueHeads: 2 }),
  },
  {
    op: 'attention',
    name: 'attention, soft-capped scores',
    inputs: { q: activation([2, 9, 30]), k: activation([2, 9, 10]), v: activation([2, 9, 10]) },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 6, numKeyValueHeads: 2, softcap: 0.9, scale: 0.8 }),
  },
  {
    op: 'attention',
    name: 'attention, bias by relative position, cross',
    inputs: {
      q: activation([2, 5, 14]),
      k: activation([2, 11, 14]),
      v: activation([2, 11, 14]),
      bias: activation([15, 2]),
    },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 2, isCausal: false, scale: 1, bias: t.bias }),
  },
  {
    op: 'attention',
    name: 'attention, bias and soft cap in a window',
    inputs: {
      q: activation([2, 9, 20]),
      k: activation([2, 13, 10]),
      v: activation([2, 13, 10]),
      bias: activation([21, 4]),
    },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 4, numKeyValueHeads: 2, window: 6, softcap: 1.5, bias: t.bias }),
  },
  {
    op: 'attention',
    name: 'attention, bias and soft cap over several tiles, documents',
    inputs: {
      q: activation([2, 150, 48]),
      k: activation([2, 150, 24]),
      v: activation([2, 150, 24]),
      bias: activation([299, 2]),
      docStart: integers(
        [2, 150],
        Array.from({ length: 300 }, (_, i) => (i % 150 < 67 ? 0 : 67)),
      ),
    },
    run: (t) =>
      attention(t.q, t.k, t.v, { numHeads: 2, numKeyValueHeads: 1, softcap: 2, bias: t.bias, docStart: t.docStart }),
    isTooLargeForFiniteDifferences: true,
  },
  {
    op: 'attention',
    name: 'attention over several tiles',
    inputs: { q: activation([1, 150, 48]), k: activation([1, 150, 24]), v: activation([1, 150, 24]) },
    run: (t) => attention(t.q, t.k, t.v, { numHeads: 2, numKeyValueHeads: 1 }),
  },
]

const losses: OpCase[] = [
  {
    op: 'crossEntropy',
    name: 'cross-entropy',
    inputs: {
      hidden: activation([3, 7, 13]),
      weight: parameter([11, 13]),
      targets: integers([3, 7], [-1, ...spread(18, 11), -1, 4]),
      scalars: { kind: 'scalars', lossScale: 1 / 19 },
    },
    run: (t) => crossEntropy(t.hidden, t.weight as Parameter, t.targets, t.scalars).loss,
    isLoss: true,
  },
  {
    op: 'crossEntropy',
    name: 'cross-entropy in two chunks of rows',
    // A chunk has at least 256 rows, and two are made only where the logits would be more than 2^22.
    inputs: {
      hidden: activation([2, 130, 2]),
      weight: parameter([16411, 2]),
      targets: integers([2, 130], spread(260, 16411)),
      scalars: { kind: 'scalars', lossScale: 0.01 },
    },
    run: (t) => crossEntropy(t.hidden, t.weight as Parameter, t.targets, t.scalars).loss,
    isLoss: true,
    isTooLargeForFiniteDifferences: true,
  },
]

export const cases: readonly OpCase[] = [
  ...adds,
  ...linears,
  ...embeddings,
  ...norms,
  ...ropes,
  ...activations,
  ...dropouts,
  ...attentions,
  ...turnedAttentions,
  ...losses,
]
