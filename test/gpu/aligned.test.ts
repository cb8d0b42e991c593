// The op table again at widths that models have: the table's own shapes are multiples of nothing, so that the 16-byte
// accesses, the fused epilogues and the long rows of the GPU's kernels hardly run there.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import type { Parameter } from '../../src/core/parameter.ts'
import { randomKey } from '../../src/core/random.ts'
import { add } from '../../src/ops/add.ts'
import { crossEntropy } from '../../src/ops/cross-entropy.ts'
import { dropout } from '../../src/ops/dropout.ts'
import { embedding } from '../../src/ops/embedding.ts'
import { gelu } from '../../src/ops/gelu.ts'
import { layernorm } from '../../src/ops/layernorm.ts'
import { linear } from '../../src/ops/linear.ts'
import { rmsnorm } from '../../src/ops/rmsnorm.ts'
import { rope } from '../../src/ops/rope.ts'
import { swiglu } from '../../src/ops/swiglu.ts'
import { GPU_PRECISIONS } from '../devices.ts'
import { compareOutcomes, type OpCase, runCase } from '../ops/harness.ts'
import type { InputSpec } from '../ops/inputs.ts'
import { openGpu } from './gpu.ts'

const activation = (...shape: number[]): InputSpec => ({ kind: 'activation', shape })
const parameter = (shape: number[], mean = 0): InputSpec => ({ kind: 'parameter', shape, mean })
const integers = (shape: number[], value: (i: number) => number): InputSpec => ({
  kind: 'integers',
  shape,
  values: Array.from({ length: shape.reduce((size, n) => size * n, 1) }, (_, i) => value(i)),
})
const table = (shape: number[], f: (angle: number) => number): InputSpec => ({
  kind: 'table',
  shape,
  value: (i) => f(0.37 * i),
  dtype: 'f32',
})

function linearCase(
  rows: number,
  inputs: number,
  outputs: number,
  layout: 'out-in' | 'in-out',
  extras: string,
): OpCase {
  const [hasBias, hasResidual] = [extras.includes('bias'), extras.includes('residual')]
  return {
    op: 'linear',
    name: `linear ${rows} x ${inputs} -> ${outputs}, ${layout} ${extras}`,
    inputs: {
      x: activation(rows, inputs),
      weight: parameter(layout === 'out-in' ? [outputs, inputs] : [inputs, outputs]),
      ...(hasBias && { bias: parameter([outputs]) }),
      ...(hasResidual && { residual: activation(rows, outputs) }),
    },
    run: (t) =>
      linear(t.x!, t.weight!, {
        layout,
        ...(hasBias && { bias: t.bias! }),
        ...(hasResidual && { residual: t.residual! }),
      }),
  }
}

function lossCase(rows: number, width: number, vocabSize: number): OpCase {
  return {
    op: 'crossEntropy',
    name: `cross-entropy of ${rows} rows over ${vocabSize}`,
    inputs: {
      hidden: { kind: 'activation', shape: [rows, width], scale: 0.5 },
      weight: { kind: 'parameter', shape: [vocabSize, width], scale: 0.3 },
      targets: integers([rows], (i) => (i % 7 === 3 ? -1 : (i * 7919) % vocabSize)),
      scalars: { kind: 'scalars', lossScale: 1 / rows },
    },
    run: (t) => crossEntropy(t.hidden!, t.weight as Parameter, t.targets!, t.scalars!).loss,
    isLoss: true,
  }
}

const rows: OpCase[] = [
  linearCase(128, 256, 192, 'out-in', ''),
  linearCase(256, 128, 384, 'out-in', 'bias'),
  linearCase(192, 256, 128, 'in-out', 'bias, residual'),
  linearCase(64, 512, 64, 'out-in', 'residual'),
  { op: 'add', name: 'add', inputs: { a: activation(64, 768), b: activation(64, 768) }, run: (t) => add(t.a!, t.b!) },
  {
    op: 'embedding',
    name: 'embedding of many equal ids',
    inputs: { table: parameter([64, 256]), ids: integers([5, 96], (i) => (i * i) % 64) },
    run: (t) => embedding(t.table as Parameter, t.ids!),
  },
  ...[768, 2048, 5120].flatMap((width): OpCase[] => [
    {
      op: 'rmsnorm',
      name: `rmsnorm of ${width} columns`,
      inputs: { x: activation(width > 1000 ? 19 : 67, width), weight: parameter([width], 1) },
      run: (t) => rmsnorm(t.x!, t.weight!),
    },
    {
      op: 'layernorm',
      name: `layernorm of ${width} columns`,
      inputs: { x: activation(width > 1000 ? 19 : 67, width), weight: parameter([width], 1), bias: parameter([width]) },
      run: (t) => layernorm(t.x!, t.weight!, t.bias!),
    },
  ]),
  ...[64, 128].map(
    (headDim): OpCase => ({
      op: 'rope',
      name: `rope of heads of ${headDim} on a fused row`,
      inputs: {
        x: activation(2, 40, 8 * headDim),
        positions: integers([2, 40], (i) => (i * 7) % 50),
        cos: table([50, headDim / 2], Math.cos),
        sin: table([50, headDim / 2], Math.sin),
      },
      run: (t) => rope(t.x!, t.positions!, { cos: t.cos!, sin: t.sin! }, { numHeads: 6, headDim }),
      isInPlace: true,
    }),
  ),
  { op: 'swiglu', name: 'swiglu', inputs: { gateUp: activation(48, 2816) }, run: (t) => swiglu(t.gateUp!) },
  { op: 'gelu', name: 'gelu, exact', inputs: { x: activation(48, 3072) }, run: (t) => gelu(t.x!, 'none') },
  { op: 'gelu', name: 'gelu, tanh', inputs: { x: activation(48, 3072) }, run: (t) => gelu(t.x!, 'tanh') },
  {
    op: 'dropout',
    name: 'dropout',
    inputs: { x: activation(3, 32, 768), sampleIndex: integers([3, 2], (i) => (i % 2 === 0 ? 1000 * i : 0)) },
    run: (t) => dropout(t.x!, t.sampleIndex!, { p: 0.1, key: randomKey(5, 'aligned dropout') }),
  },
  lossCase(96, 64, 4096),
  lossCase(10, 16, 50304),
  {
    op: 'linear',
    name: 'a GPT-2 MLP, whose gelu may be fused into its products',
    inputs: {
      x: activation(64, 128),
      up: parameter([128, 512]),
      upBias: parameter([512]),
      down: { kind: 'parameter', shape: [512, 128], scale: 0.1 },
      downBias: parameter([128]),
    },
    run: (t) => {
      const hidden = gelu(linear(t.x!, t.up!, { bias: t.upBias!, layout: 'in-out' }), 'tanh')
      return linear(hidden, t.down!, { bias: t.downBias!, layout: 'in-out', residual: t.x! })
    },
  },
]

const reference = openReferenceDevice()
for (const precision of GPU_PRECISIONS) {
  const gpu = await openGpu({ precision })
  describe(`cuda ${precision}, widths of models`, () => {
    if ('skip' in gpu) {
      test('every row', { skip: gpu.skip })
      return
    }
    after(() => gpu.device.close())
    for (const opCase of rows) {
      test(opCase.name, async () => {
        // Two micro-batches: what overwrites runs first, what adds to it second.
        const plan = { precision, microBatches: [0, 1] }
        const actual = await runCase(gpu.device, opCase, plan)
        const expected = await runCase(reference, opCase, plan)
        assert.deepEqual(compareOutcomes('two micro-batches', actual, expected, precision), [])
      })
    }
  })
}
