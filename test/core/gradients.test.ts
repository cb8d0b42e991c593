// Where gradients go when tensors are used in awkward ways: views, column slices, in-place ops, several users, residual
// streams, parameters in unusual places. Each program is float64 and checked against finite differences, with memory
// poisoned, so that a gradient that is lost, doubled or left unwritten shows.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import { emptyTensor, tensorFrom } from '../../src/core/allocator.ts'
import { Gradients } from '../../src/core/gradients.ts'
import type { Parameter } from '../../src/core/parameter.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { add } from '../../src/ops/add.ts'
import { attention } from '../../src/ops/attention.ts'
import { crossEntropy } from '../../src/ops/cross-entropy.ts'
import { embedding } from '../../src/ops/embedding.ts'
import { gelu } from '../../src/ops/gelu.ts'
import { geluMlp } from '../../src/ops/gelu-mlp.ts'
import { layernorm } from '../../src/ops/layernorm.ts'
import { linear } from '../../src/ops/linear.ts'
import { rmsnorm } from '../../src/ops/rmsnorm.ts'
import { rope } from '../../src/ops/rope.ts'
import { swiglu } from '../../src/ops/swiglu.ts'
import { checkFiniteDifferences, type OpCase, valuesOf } from '../ops/harness.ts'
import type { InputSpec } from '../ops/inputs.ts'

const device = openReferenceDevice()

const activation = (...shape: number[]): InputSpec => ({ kind: 'activation', shape })
const parameter = (...shape: number[]): InputSpec => ({ kind: 'parameter', shape, scale: 0.5 })
const integers = (shape: number[], values: number[]): InputSpec => ({ kind: 'integers', shape, values })
const table = (...shape: number[]): InputSpec => ({ kind: 'table', shape, value: (i) => Math.cos(0.7 * i) })

interface Program {
  inputs: OpCase['inputs']
  run: OpCase['run']
  isLoss?: boolean
}

const programs: Record<string, Program> = {
  'a tensor with three users': {
    inputs: { x: activation(3, 5), w: parameter(5, 5) },
    run: ({ x, w }) => add(add(gelu(x), linear(x, w)), gelu(x)),
  },
  'a residual stream: the residual takes the gradient over, the branch adds to it': {
    inputs: { h: activation(2, 3, 6), norm: parameter(6), up: parameter(8, 6), down: parameter(6, 4) },
    run: ({ h, norm, up, down }) => {
      const h1 = linear(swiglu(linear(rmsnorm(h, norm), up)), down, { residual: h })
      return linear(swiglu(linear(rmsnorm(h1, norm), up)), down, { residual: h1 })
    },
  },
  'biases whose gradients the norms behind them make': {
    inputs: {
      x: activation(3, 4),
      norm: parameter(4),
      shift: parameter(4),
      w: parameter(4, 4),
      bias: parameter(4),
      up: parameter(4, 6),
      upBias: parameter(6),
      down: parameter(6, 4),
      downBias: parameter(4),
    },
    run: ({ x, norm, shift, w, bias, up, upBias, down, downBias }) => {
      const h = linear(layernorm(x, norm, shift), w, { bias, residual: x })
      const mlp = (y: Tensor) =>
        geluMlp(layernorm(y, norm, shift), { weight: up, bias: upBias }, { weight: down, bias: downBias }, y)
      return layernorm(mlp(mlp(h)), norm, shift)
    },
  },
  'a bias in front of a norm that is not the first user of what it was added to': {
    inputs: { x: activation(3, 4), norm: parameter(4), shift: parameter(4), w: parameter(4, 4), bias: parameter(4) },
    run: ({ x, norm, shift, w, bias }) => {
      const h = linear(x, w, { bias })
      return add(gelu(h), layernorm(h, norm, shift))
    },
  },
  'a bias in front of two norms, and of a norm of a view': {
    inputs: { x: activation(3, 4), norm: parameter(4), shift: parameter(4), w: parameter(4, 4), bias: parameter(4) },
    run: ({ x, norm, shift, w, bias }) => {
      const h = linear(x, w, { bias })
      const both = add(layernorm(h, norm, shift), layernorm(h, norm, shift))
      return layernorm(linear(both, w, { bias }).reshape(3, 1, 4), norm, shift).reshape(3, 4)
    },
  },
  'a residual that is used again later': {
    inputs: { h: activation(3, 4), w: parameter(4, 4) },
    run: ({ h, w }) => {
      const x = gelu(h)
      return add(linear(x, w, { residual: x }), linear(x, w, { residual: h }))
    },
  },
  'column slices that fill a fused tensor, one of them used twice': {
    inputs: { x: activation(2, 4, 3), w: parameter(12, 3) },
    run: ({ x, w }) => {
      const qkv = linear(x, w)
      const [q, k, v] = [0, 4, 8].map((from) => qkv.columns(from, 4))
      return attention(attention(q!, k!, v!, { numHeads: 2 }), k!, q!, { numHeads: 2 })
    },
  },
  'a column slice nobody uses: its gradient is zero': {
    inputs: { x: activation(5, 9), w: parameter(4, 3) },
    run: ({ x, w }) => add(linear(gelu(x).columns(0, 3), w), linear(gelu(x).columns(6, 3), w)),
  },
  'column slices that overlap': {
    inputs: { x: activation(5, 9), w: parameter(4, 5) },
    run: ({ x, w }) => {
      const y = gelu(x)
      return add(add(linear(y.columns(0, 5), w), linear(y.columns(3, 5), w)), linear(y.columns(1, 5), w))
    },
  },
  'a column slice and then the whole tensor': {
    inputs: { x: activation(4, 6), narrow: parameter(3, 2), wide: parameter(3, 6) },
    run: ({ x, narrow, wide }) => {
      const y = gelu(x)
      return add(linear(y, wide), linear(y.columns(2, 2), narrow))
    },
  },
  'the whole tensor and then a column slice': {
    inputs: { x: activation(4, 6), narrow: parameter(3, 2), wide: parameter(3, 6) },
    run: ({ x, narrow, wide }) => {
      const y = gelu(x)
      return add(linear(y.columns(2, 2), narrow), linear(y, wide))
    },
  },
  'one tensor as query, key and value': {
    inputs: { x: activation(2, 5, 6) },
    run: ({ x }) => {
      const y = gelu(x)
      return attention(y, y, y, { numHeads: 2 })
    },
  },
  'leading-index views': {
    inputs: { x: activation(6, 4), w: parameter(4, 4) },
    run: ({ x, w }) => {
      const y = gelu(x)
      return add(linear(y.slice(0, 3), w), linear(y.slice(2, 3), w))
    },
  },
  'a reshape, a slice of it and columns of that': {
    inputs: { x: activation(2, 12), w: parameter(5, 3) },
    run: ({ x, w }) => {
      const y = gelu(x).reshape(4, 6)
      return add(linear(y.columns(1, 3), w), linear(y.columns(3, 3).reshape(2, 2, 3), w).reshape(4, 5))
    },
  },
  'the output is a view': {
    inputs: { x: activation(2, 12) },
    run: ({ x }) => gelu(x).reshape(4, 6),
  },
  'rope in place on a fused projection, then its column slices': {
    inputs: {
      x: activation(2, 4, 3),
      w: parameter(16, 3),
      positions: integers([2, 4], [0, 1, 2, 3, 0, 1, 0, 1]),
      cos: table(4, 2),
      sin: table(4, 2),
    },
    run: ({ x, w, positions, cos, sin }) => {
      const qkv = rope(linear(x, w), positions, { cos, sin }, { numHeads: 3, headDim: 4 })
      return attention(qkv.columns(0, 8), qkv.columns(8, 4), qkv.columns(12, 4), { numHeads: 2, numKeyValueHeads: 1 })
    },
  },
  'rope in place on column slices, views of the result': {
    inputs: {
      x: activation(2, 4, 3),
      w: parameter(12, 3),
      out: parameter(5, 4),
      positions: integers([2, 4], [0, 1, 2, 3, 0, 1, 0, 1]),
      cos: table(4, 2),
      sin: table(4, 2),
    },
    run: ({ x, w, out, positions, cos, sin }) => {
      const qkv = linear(x, w)
      const q = rope(qkv.columns(0, 8), positions, { cos, sin }, { numHeads: 2, headDim: 4 })
      // Columns, rows and another shape of a tensor that is itself not contiguous.
      const y = add(linear(q.columns(0, 4), out), linear(q.columns(4, 4).reshape(8, 4), out).reshape(2, 4, 5))
      const z = linear(q.slice(1, 1).columns(2, 4), out)
      return add(y.slice(1, 1), z)
    },
  },
  'a parameter as either side of an addition': {
    inputs: { x: activation(3, 4), a: parameter(3, 4), b: parameter(3, 4) },
    run: ({ x, a, b }) => add(add(a, x), add(gelu(x), b)),
  },
  'a parameter through an activation op, whole and in part': {
    inputs: { a: parameter(4, 6), x: activation(2, 6) },
    run: ({ a, x }) => add(add(gelu(a).slice(1, 2), gelu(a.slice(2, 2))), gelu(x)),
  },
  'a tied embedding: the head and the table': {
    inputs: {
      table: parameter(7, 4),
      ids: integers([2, 3], [0, 6, 2, 2, 5, 1]),
      targets: integers([2, 3], [6, -1, 2, 5, 1, 0]),
      scalars: { kind: 'scalars', lossScale: 0.2 },
    },
    run: (t) =>
      crossEntropy(gelu(embedding(t.table as Parameter, t.ids)), t.table as Parameter, t.targets, t.scalars).loss,
    isLoss: true,
  },
}

describe('programs against finite differences', () => {
  for (const [name, { inputs, run, isLoss = false }] of Object.entries(programs)) {
    test(name, async () => {
      const opCase: OpCase = { op: 'none', name, inputs, run, isLoss }
      assert.deepEqual(await checkFiniteDifferences(device, opCase), [])
    })
  }
})

describe('the bookkeeping itself', () => {
  const always = () => true
  const values = (gradient: Tensor) => valuesOf(gradient)

  test('reading a gradient zeroes the columns that nobody wrote', async () => {
    const gradients = new Gradients(always)
    const x = emptyTensor(device, [2, 4])
    gradients.overwrite(x.columns(1, 2), (dx) => device.kernels.fill(dx, 3))
    assert.deepEqual([...(await values(gradients.of(x)))], [0, 3, 3, 0, 0, 3, 3, 0])
  })

  test('the first contribution overwrites, the second adds, a passed one is taken over', async () => {
    const gradients = new Gradients(always)
    const x = emptyTensor(device, [3])
    const given = tensorFrom(device, [3], [1, 2, 3])
    gradients.pass(x, given)
    assert.equal(gradients.of(x), given)
    gradients.into(x, (dx, accumulate) => {
      assert.equal(accumulate, true)
      device.kernels.accumulate(dx, tensorFrom(device, [3], [10, 10, 10]))
    })
    gradients.overwrite(x, (dx) => device.kernels.fill(dx, 100))
    assert.deepEqual([...(await values(gradients.of(x)))], [111, 112, 113])
    gradients.drop(x)
    assert.equal(gradients.find(x), undefined)
    assert.throws(() => gradients.of(x), /before it was written/)
  })

  test('a view of a passed gradient shares its memory', async () => {
    const gradients = new Gradients(always)
    const x = emptyTensor(device, [2, 6])
    gradients.pass(
      x.reshape(4, 3),
      tensorFrom(
        device,
        [4, 3],
        Array.from({ length: 12 }, (_, i) => i),
      ),
    )
    assert.deepEqual([...(await values(gradients.of(x.columns(4, 2))))], [4, 5, 10, 11])
  })
})
