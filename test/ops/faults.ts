// The planted faults: for every op, ways in which its backward can be wrong that look plausible. Each must make the
// checks of harness.ts fail on at least one row of the op's table.
import type { Kernels } from '../../src/core/kernels.ts'
import { type Fault, type Half, lastRow, scale, scaledCopy, withoutLast, withoutLastRow } from './faulty.ts'

type Kernel = (...args: unknown[]) => void

/** Replaces one kernel by `change`, which is given the right one. */
function replace<Name extends keyof Kernels>(
  name: Name,
  change: (right: Kernels[Name], kernels: Kernels) => Kernels[Name],
): Fault['plant'] {
  return (kernels) => ({ [name]: change(kernels[name], kernels) }) as Partial<Kernels>
}

/** The kernel's argument `position` (a flag or a tensor) is taken for something else. */
function withArgument(name: keyof Kernels, position: number, value: (right: unknown, kernels: Kernels) => unknown) {
  return replace(
    name,
    (right, kernels) =>
      ((...args: unknown[]) =>
        (right as Kernel)(...args.with(position, value(args[position], kernels)))) as Kernels[typeof name],
  )
}

const linear = (half: Half, name: string, plant: Fault['plant']): Fault => ({ op: 'linear', half, name, plant })
/** In linear's backward, dWeight is the product whose first factor is transposed. */
const isWeightProduct = (options: { transposeA?: boolean }): boolean => options.transposeA === true

const linearFaults: Fault[] = [
  linear(
    'backwardInput',
    'dx is 1 % too large',
    replace('matmul', (right, kernels) => (out, a, b, options) => {
      right(out, a, b, options)
      if (!isWeightProduct(options)) scale(kernels, out, 1.01)
    }),
  ),
  linear(
    'backwardInput',
    'the last row of dx is dropped',
    replace('matmul', (right, kernels) => (out, a, b, options) => {
      right(out, a, b, options)
      if (!isWeightProduct(options)) kernels.fill(lastRow(out), 0)
    }),
  ),
  linear(
    'backwardInput',
    'dx overwrites what was there',
    replace(
      'matmul',
      (right) => (out, a, b, options) =>
        right(out, a, b, isWeightProduct(options) ? options : { ...options, accumulate: false }),
    ),
  ),
  linear(
    'backwardWeight',
    'dWeight has the wrong sign',
    replace('matmul', (right, kernels) => (out, a, b, options) => {
      right(out, a, b, options)
      if (isWeightProduct(options)) scale(kernels, out, -1)
    }),
  ),
  linear(
    'backwardWeight',
    'dWeight overwrites the first micro-batch',
    replace(
      'matmul',
      (right) => (out, a, b, options) =>
        right(out, a, b, isWeightProduct(options) ? { ...options, accumulate: false } : options),
    ),
  ),
  linear(
    'backwardWeight',
    'dBias is a tenth too large',
    replace('matmul', (right, kernels) => (out, a, b, options) => {
      right(out, a, b, options)
      const sum = options.sumOfA ?? options.sumOfB
      if (sum !== undefined) scale(kernels, sum, 1.1)
    }),
  ),
  linear(
    'backwardWeight',
    'dBias overwrites the first micro-batch',
    replace('matmul', (right, kernels) => (out, a, b, { sumOfA, sumOfB, ...options }) => {
      right(out, a, b, options)
      if (sumOfA !== undefined) kernels.sumRows(sumOfA, a, false)
      if (sumOfB !== undefined) kernels.sumRows(sumOfB, b, false)
    }),
  ),
]

const geluMlpFaults: Fault[] = [
  {
    op: 'geluMlp',
    half: 'backwardInput',
    name: 'the slope of the activation is left out',
    plant: replace(
      'matmul',
      (right) =>
        (out, a, b, { geluBackward: _, ...options }) =>
          right(out, a, b, options),
    ),
  },
  {
    op: 'geluMlp',
    half: 'backwardWeight',
    name: 'weight gradients overwrite the first micro-batch',
    plant: replace(
      'matmul',
      (right) => (out, a, b, options) =>
        right(out, a, b, isWeightProduct(options) ? { ...options, accumulate: false } : options),
    ),
  },
]

const embedding = (name: string, plant: Fault['plant']): Fault => ({
  op: 'embedding',
  half: 'backwardWeight',
  name,
  plant,
})
const embeddingFaults: Fault[] = [
  embedding(
    'the last token is dropped',
    replace(
      'embeddingBackward',
      (right) => (dTable, dOut, ids) => right(dTable, withoutLastRow(dOut), withoutLast(ids)),
    ),
  ),
  embedding(
    'the last row of the table is lost',
    replace('embeddingBackward', (right, kernels) => (dTable, dOut, ids) => {
      right(dTable, dOut, ids)
      kernels.fill(lastRow(dTable), 0)
    }),
  ),
  embedding(
    'the gradient does not start from zero',
    replace('fill', () => () => undefined),
  ),
]

/** Faults that RMSNorm and LayerNorm share; positions are those of the kernels' arguments. */
function normFaults(
  op: 'rmsnorm' | 'layernorm',
  positions: { rstdInput: number; rstdWeight: number; rstdBoth: number },
): Fault[] {
  const input = `${op}BackwardInput` as const
  const weight = `${op}BackwardWeight` as const
  const both = `${op}Backward` as const
  const stale = (rstd: unknown, kernels: Kernels) => scaledCopy(kernels, rstd as Parameters<typeof scaledCopy>[1], 1.01)
  return [
    { op, half: 'backwardInput', name: 'stale rstd', plant: withArgument(input, positions.rstdInput, stale) },
    {
      op,
      half: 'backwardInput',
      name: 'dx overwrites what was there',
      plant: withArgument(input, positions.rstdInput + 1, () => false),
    },
    { op, half: 'backwardWeight', name: 'stale rstd', plant: withArgument(weight, positions.rstdWeight, stale) },
    {
      op,
      half: 'backwardWeight',
      name: 'dWeight overwrites the first micro-batch',
      plant: withArgument(weight, positions.rstdWeight + 1, () => false),
    },
    {
      op,
      half: 'backwardInput',
      name: 'stale rstd, both at once',
      plant: withArgument(both, positions.rstdBoth, stale),
    },
    ...(['dx', 'dWeight'] as const).map(
      (name): Fault => ({
        op,
        half: name === 'dx' ? 'backwardInput' : 'backwardWeight',
        name: `${name} overwrites what was there, both at once`,
        plant: withArgument(both, positions.rstdBoth + 1, (right) => ({ ...(right as object), [name]: false })),
      }),
    ),
  ]
}

const layernormFaults: Fault[] = [
  {
    op: 'layernorm',
    half: 'backwardInput',
    name: 'stale mean',
    plant: withArgument('layernormBackwardInput', 4, (mean, kernels) =>
      scaledCopy(kernels, mean as Parameters<typeof scaledCopy>[1], 1.1),
    ),
  },
  {
    op: 'layernorm',
    half: 'backwardWeight',
    name: 'dBias gets dWeight',
    plant: replace('layernormBackwardWeight', (right, kernels) => (dWeight, dBias, ...rest) => {
      right(dWeight, dBias, ...rest)
      kernels.copy(dBias, dWeight)
    }),
  },
  {
    op: 'layernorm',
    half: 'backwardWeight',
    name: 'dBias overwrites the first micro-batch, both at once',
    plant: withArgument('layernormBackward', 8, (right) => ({ ...(right as object), dBias: false })),
  },
]

const input = (op: string, name: string, plant: Fault['plant']): Fault => ({ op, half: 'backwardInput', name, plant })

const pointwiseFaults: Fault[] = [
  input(
    'add',
    'the second receiver gets 1 % too much',
    replace('copy', (right, kernels) => (out, x) => {
      right(out, x)
      scale({ ...kernels, copy: right }, out, 1.01)
    }),
  ),
  input(
    'add',
    'a second contribution is lost',
    replace('accumulate', () => () => undefined),
  ),
  input(
    'rope',
    'turns forward instead of back',
    replace(
      'rope',
      (right) => (out, x, positions, cos, sin, options) =>
        right(out, x, positions, cos, sin, { ...options, inverse: false }),
    ),
  ),
  input(
    'rope',
    'the last head is forgotten',
    replace(
      'rope',
      (right) => (out, x, positions, cos, sin, options) =>
        right(out, x, positions, cos, sin, { ...options, numHeads: options.numHeads - 1 }),
    ),
  ),
  input(
    'swiglu',
    'gate and up are exchanged',
    replace('swigluBackward', (right, kernels) => (dGateUp, dOut, gateUp) => {
      right(dGateUp, dOut, gateUp)
      const width = dOut.columnCount
      const gate = scaledCopy(kernels, dGateUp.columns(0, width), 1)
      kernels.copy(dGateUp.columns(0, width), dGateUp.columns(width, width))
      kernels.copy(dGateUp.columns(width, width), gate)
    }),
  ),
  input(
    'swiglu',
    'the last row is not written',
    replace(
      'swigluBackward',
      (right) => (dGateUp, dOut, gateUp) =>
        right(withoutLastRow(dGateUp), withoutLastRow(dOut), withoutLastRow(gateUp)),
    ),
  ),
  input(
    'gelu',
    'the slope of the other approximation',
    replace(
      'geluBackward',
      (right) => (dx, dOut, x, approximate) => right(dx, dOut, x, approximate === 'tanh' ? 'none' : 'tanh'),
    ),
  ),
  input(
    'dropout',
    'another mask than the forward',
    replace(
      'dropout',
      (right) => (out, x, sampleIndex, p, key) => right(out, x, sampleIndex, p, { ...key, keyLow: key.keyLow + 1 }),
    ),
  ),
  input(
    'dropout',
    'another probability than the forward',
    withArgument('dropout', 3, (p) => (p as number) + 0.01),
  ),
]

const attention = (name: string, change: (args: Parameters<Kernels['attentionBackward']>, kernels: Kernels) => void) =>
  input(
    'attention',
    name,
    replace('attentionBackward', (right, kernels) => (...args) => {
      change(args, kernels)
      right(...args)
    }),
  )

const attentionFaults: Fault[] = [
  attention('delta is left out', (args, kernels) => {
    args[5] = scaledCopy(kernels, args[5], 0)
  }),
  attention('stale lse', (args, kernels) => {
    args[6] = scaledCopy(kernels, args[6], 1.01)
  }),
  attention('the window is forgotten', (args) => {
    args[10] = { ...args[10], window: 0 }
  }),
  attention('documents see each other', (args) => {
    const { docStart: _, ...options } = args[10]
    args[10] = options
  }),
  attention('the mask is forgotten', (args) => {
    const { docStart: _, ...options } = args[10]
    args[10] = { ...options, isCausal: false, window: 0 }
  }),
  attention('the scale is forgotten', (args) => {
    args[10] = { ...args[10], scale: 1 }
  }),
  attention('the soft cap is forgotten', (args) => {
    const { softcap: _, ...options } = args[10]
    args[10] = options
  }),
  attention('the bias is forgotten', (args) => {
    const { bias: _, ...options } = args[10]
    args[10] = options
  }),
  input(
    'attention',
    'the gradient of the bias is 1 % too large',
    replace('attentionBackward', (right, kernels) => (...args) => {
      right(...args)
      const dBias = args[11]
      if (dBias !== undefined) scale(kernels, dBias, 1.01)
    }),
  ),
  input(
    'attention',
    'dk and dv are exchanged',
    replace(
      'attentionBackward',
      (right) =>
        (dq, dk, dv, ...rest) =>
          right(dq, dv, dk, ...rest),
    ),
  ),
]

const loss = (half: Half, name: string, plant: Fault['plant']): Fault => ({
  op: 'crossEntropy',
  half,
  name,
  plant,
  inForward: true,
})

const lossFaults: Fault[] = [
  loss(
    'backwardInput',
    'the gradient of the logits is 1 % too large',
    replace('softmaxCrossEntropy', (right, kernels) => (losses, logits, targets, scalars) => {
      right(losses, logits, targets, scalars)
      if (scalars !== undefined) scale(kernels, logits, 1.01)
    }),
  ),
  loss(
    'backwardInput',
    'the last row of each chunk is dropped',
    replace('softmaxCrossEntropy', (right, kernels) => (losses, logits, targets, scalars) => {
      right(losses, logits, targets, scalars)
      if (scalars !== undefined) kernels.fill(lastRow(logits), 0)
    }),
  ),
  loss(
    'backwardWeight',
    'the second chunk overwrites the first',
    replace('matmul', (right) => (out, a, b, options) => right(out, a, b, { ...options, accumulate: false })),
  ),
]

export const faults: readonly Fault[] = [
  ...linearFaults,
  ...geluMlpFaults,
  ...embeddingFaults,
  ...normFaults('rmsnorm', { rstdInput: 4, rstdWeight: 3, rstdBoth: 5 }),
  ...normFaults('layernorm', { rstdInput: 5, rstdWeight: 5, rstdBoth: 7 }),
  ...layernormFaults,
  ...pointwiseFaults,
  ...attentionFaults,
  ...lossFaults,
]
