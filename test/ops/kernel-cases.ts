// Kernels that no op's row reaches in every way it may be called: optimizers, sums, column slices, aliased outputs.
// Every tensor of a row, inputs too, is compared with the reference after the call.
import type { AdamOptions, AdamRange, Kernels, LossScaleOptions } from '../../src/core/kernels.ts'
import { SCALAR } from '../../src/core/kernels.ts'
import { randomKey } from '../../src/core/random.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { decodeCases } from './decode-cases.ts'

export interface KernelTensor {
  readonly shape: readonly number[]
  /** Values before the call; by default normal ones. */
  readonly values?: 'poison' | 'positive' | readonly number[]
  /** What it has on every device; by default the device's floatDtype. */
  readonly dtype?: 'f64' | 'f32' | 'i32'
  /** The kernel gets these columns of a wider tensor. */
  readonly columns?: { readonly from: number; readonly of: number }
}

export interface KernelCase {
  readonly kernel: keyof Kernels
  readonly name: string
  readonly tensors: Readonly<Record<string, KernelTensor>>
  run(kernels: Kernels, t: Record<string, Tensor>): void
  /** About the copies that ops read where these are narrower than the weights; elsewhere there are none. */
  readonly isAboutWorkingCopies?: boolean
  /** The result must be the reference's, rounded to the device's precision. */
  readonly isExact?: boolean
}

const out = (shape: number[]): KernelTensor => ({ shape, values: 'poison' })
const slice = (shape: number[], from: number, of: number): KernelTensor => ({ shape, columns: { from, of } })

/** Whatever the device computes in: statistics, and what optimizers work on. */
const f32 = (...shape: number[]): KernelTensor => ({ shape, dtype: 'f32' })

/** Step scalars of a third step with clipping, `change` by slot; `isFinite` 0 is a step to be skipped. */
function scalars(change: Partial<Record<keyof typeof SCALAR, number>> = {}): KernelTensor {
  const values = new Array<number>(SCALAR.count).fill(0)
  values[SCALAR.lr] = 0.013
  values[SCALAR.biasCorrection1] = 1 - 0.9 ** 3
  values[SCALAR.biasCorrection2] = 1 - 0.95 ** 3
  values[SCALAR.gradSumOfSquares] = 23
  values[SCALAR.clipFactor] = 0.37
  values[SCALAR.isFinite] = 1
  values[SCALAR.lossScale] = 1 / 77
  values[SCALAR.gradScale] = 4
  values[SCALAR.goodSteps] = 3
  values[SCALAR.hysteresisLeft] = 2
  for (const [slot, value] of Object.entries(change)) values[SCALAR[slot as keyof typeof SCALAR]] = value
  values[SCALAR.gradScale] = 3
  return { shape: [SCALAR.count], dtype: 'f64', values }
}

const N = 1037

const lossScaleOptions: LossScaleOptions = {
  growthFactor: 2,
  growthInterval: 5,
  backoffFactor: 0.5,
  hysteresis: 2,
  minScale: 2,
}

const sums: KernelCase[] = [
  { kernel: 'fill', name: 'fill', tensors: { x: out([3, 7]) }, run: (k, { x }) => k.fill(x, 1.5) },
  {
    kernel: 'fill',
    name: 'fill of a column slice',
    tensors: { x: slice([5, 7], 3, 19) },
    run: (k, { x }) => k.fill(x, -2),
  },
  {
    kernel: 'copy',
    name: 'copy between column slices',
    tensors: { y: slice([2, 5, 7], 3, 19), x: slice([2, 5, 7], 1, 9) },
    run: (k, { y, x }) => k.copy(y, x),
  },
  {
    kernel: 'copy',
    name: 'copy of f32 into the floats of the device',
    tensors: { y: out([3, N]), x: f32(3, N) },
    run: (k, { y, x }) => k.copy(y, x),
    isExact: true,
  },
  {
    kernel: 'accumulate',
    name: 'accumulate into a column slice',
    tensors: { y: slice([2, 5, 7], 3, 19), x: { shape: [2, 5, 7] } },
    run: (k, { y, x }) => k.accumulate(y, x),
  },
  {
    kernel: 'add',
    name: 'add in place',
    tensors: { a: { shape: [N] }, b: { shape: [N] } },
    run: (k, { a, b }) => k.add(b, a, b),
  },
  {
    kernel: 'axpby',
    name: 'axpby',
    tensors: { y: out([N]), a: { shape: [N] }, b: { shape: [N] } },
    run: (k, { y, a, b }) => k.axpby(y, a, b, 0.3, -1.7),
  },
  {
    kernel: 'axpby',
    name: 'axpby in place',
    tensors: { a: { shape: [N] }, b: { shape: [N] } },
    run: (k, { a, b }) => k.axpby(a, a, b, 0.3, -1.7),
  },
  {
    kernel: 'sumRows',
    name: 'sumRows',
    tensors: { y: { ...out([35]), dtype: 'f32' }, x: { shape: [3, 67, 35] } },
    run: (k, { y, x }) => k.sumRows(y, x, false),
  },
  {
    kernel: 'sumRows',
    name: 'sumRows, accumulating',
    tensors: { y: f32(35), x: { shape: [3, 67, 35] } },
    run: (k, { y, x }) => k.sumRows(y, x, true),
  },
  ...[false, true].map(
    (accumulate): KernelCase => ({
      kernel: 'scaledSum',
      name: `scaledSum, accumulate ${accumulate}`,
      tensors: { y: { shape: [1], dtype: 'f64' }, x: { ...f32(N), values: 'positive' }, scalars: scalars() },
      run: (k, { y, x, scalars }) => k.scaledSum(y, x, scalars, accumulate),
    }),
  ),
  ...[67, 776].flatMap((columns) =>
    [false, true].map(
      (accumulate): KernelCase => ({
        kernel: 'layernormBackward',
        name: `layernormBackward with the sums of dx, ${columns} columns, accumulate ${accumulate}`,
        tensors: {
          dx: { shape: [45, columns] },
          ...Object.fromEntries(['dWeight', 'dBias', 'sums'].map((name) => [name, f32(columns)])),
          ...Object.fromEntries(['dOut', 'x'].map((name) => [name, { shape: [45, columns] }])),
          weight: { shape: [columns] },
          mean: f32(45),
          rstd: { ...f32(45), values: 'positive' },
        },
        run: (k, { dx, dWeight, dBias, sums, dOut, x, weight, mean, rstd }) =>
          k.layernormBackward(
            dx!,
            dWeight!,
            dBias!,
            dOut!,
            x!,
            weight!,
            mean!,
            rstd!,
            { dx: accumulate, dWeight: accumulate, dBias: !accumulate },
            { sums: sums!, accumulate },
          ),
      }),
    ),
  ),
  ...[67, 776].flatMap((columns): KernelCase[] => [
    {
      kernel: 'layernormBackward',
      name: `layernormBackward that makes the forward's result again, ${columns} columns`,
      tensors: {
        ...Object.fromEntries(['first', 'again', 'dx'].map((name) => [name, out([45, columns])])),
        ...Object.fromEntries(['mean', 'rstd'].map((name) => [name, { ...out([45]), dtype: 'f32' as const }])),
        ...Object.fromEntries(['dWeight', 'dBias'].map((name) => [name, { ...out([columns]), dtype: 'f32' as const }])),
        ...Object.fromEntries(['dOut', 'x'].map((name) => [name, { shape: [45, columns] }])),
        ...Object.fromEntries(['weight', 'bias'].map((name) => [name, { shape: [columns] }])),
      },
      run: (k, { first, again, dx, dWeight, dBias, dOut, x, weight, bias, mean, rstd }) => {
        k.layernorm(first!, mean!, rstd!, x!, weight!, bias!, 1e-5)
        const fresh = { dx: false, dWeight: false, dBias: false }
        const asked = { out: again!, bias: bias!, eps: 1e-5 }
        k.layernormBackward(dx!, dWeight!, dBias!, dOut!, x!, weight!, mean!, rstd!, fresh, undefined, asked)
      },
    },
    {
      kernel: 'rmsnormBackward',
      name: `rmsnormBackward that makes the forward's result again, ${columns} columns`,
      tensors: {
        ...Object.fromEntries(['first', 'again'].map((name) => [name, out([45, columns])])),
        ...Object.fromEntries(['dx', 'dOut', 'x'].map((name) => [name, { shape: [45, columns] }])),
        rstd: { ...out([45]), dtype: 'f32' },
        dWeight: f32(columns),
        weight: { shape: [columns] },
      },
      run: (k, { first, again, dx, dWeight, dOut, x, weight, rstd }) => {
        k.rmsnorm(first!, rstd!, x!, weight!, 1e-5)
        const added = { dx: true, dWeight: true }
        k.rmsnormBackward(dx!, dWeight!, dOut!, x!, weight!, rstd!, added, { out: again!, eps: 1e-5 })
      },
    },
  ]),
  ...[37, 72].map(
    (columns): KernelCase => ({
      kernel: 'swigluBackward',
      name: `swigluBackward that makes the forward's result again, ${columns} columns`,
      tensors: {
        again: out([19, columns]),
        dGateUp: out([19, 2 * columns]),
        dOut: { shape: [19, columns] },
        gateUp: { shape: [19, 2 * columns] },
      },
      run: (k, { again, dGateUp, dOut, gateUp }) => k.swigluBackward(dGateUp!, dOut!, gateUp!, again!),
    }),
  ),
  {
    kernel: 'sumOfSquares',
    name: 'sumOfSquares',
    tensors: { x: f32(N), scalars: scalars() },
    run: (k, { x, scalars }) => k.sumOfSquares(scalars!, [x!]),
  },
  {
    kernel: 'sumOfSquares',
    name: 'sumOfSquares of a hundred tensors',
    tensors: { x: f32(100, 41), scalars: scalars() },
    run: (k, { x, scalars }) =>
      k.sumOfSquares(
        scalars!,
        Array.from({ length: 100 }, (_, i) => x!.slice(i, 1)),
      ),
  },
  {
    kernel: 'sumOfSquares',
    name: 'sumOfSquares of tensors of two types, in turns',
    tensors: { x: f32(70, 41), y: { shape: [70, 48] }, scalars: scalars() },
    run: (k, { x, y, scalars }) =>
      k.sumOfSquares(scalars!, Array.from({ length: 70 }, (_, i) => [x!.slice(i, 1), y!.slice(i, 1)]).flat()),
  },
  ...[0, 0.5, 100].map(
    (maxNorm): KernelCase => ({
      kernel: 'clipFactor',
      name: `clipFactor, at most ${maxNorm}`,
      tensors: { scalars: scalars() },
      run: (k, { scalars }) => k.clipFactor(scalars, maxNorm),
    }),
  ),
  {
    kernel: 'clipFactor',
    name: 'clipFactor of gradients that are not finite',
    tensors: { scalars: scalars({ gradSumOfSquares: Number.POSITIVE_INFINITY }) },
    run: (k, { scalars }) => k.clipFactor(scalars, 0),
  },
  ...Object.entries({
    'one more good step': {},
    'good steps enough to grow': { goodSteps: 4 },
    'an overflow that is let pass': { isFinite: 0 },
    'an overflow that shrinks it': { isFinite: 0, hysteresisLeft: 1 },
    'the least scale': { isFinite: 0, hysteresisLeft: 1, gradScale: 3 },
  }).map(
    ([what, change]): KernelCase => ({
      kernel: 'updateLossScale',
      name: `updateLossScale, ${what}`,
      tensors: { scalars: scalars(change) },
      run: (k, { scalars }) => k.updateLossScale(scalars, lossScaleOptions),
    }),
  ),
  {
    kernel: 'normalize',
    name: 'normalize',
    tensors: { y: out([17, 61]), x: { shape: [17, 61] } },
    run: (k, { y, x }) => k.normalize(y, x, 1e-7),
  },
]

const products: KernelCase[] = [
  ...[
    { transposeA: false, transposeB: false },
    { transposeA: false, transposeB: true },
    { transposeA: true, transposeB: false },
    { transposeA: true, transposeB: true },
  ].map(
    (transpose): KernelCase => ({
      kernel: 'matmul',
      name: `matmul between column slices, adding everything, ${JSON.stringify(transpose)}`,
      tensors: {
        y: slice([19, 37], 5, 51),
        a: transpose.transposeA ? slice([23, 19], 2, 33) : slice([19, 23], 2, 33),
        b: transpose.transposeB ? slice([37, 23], 7, 31) : slice([23, 37], 7, 49),
        bias: { shape: [37] },
        residual: slice([19, 37], 1, 39),
      },
      run: (k, { y, a, b, bias, residual }) => k.matmul(y, a, b, { ...transpose, accumulate: true, bias, residual }),
    }),
  ),
  {
    kernel: 'matmul',
    name: 'matmul into poison with bias and residual',
    tensors: {
      y: out([5, 3]),
      a: { shape: [5, 70] },
      b: { shape: [70, 3] },
      bias: { shape: [3] },
      residual: { shape: [5, 3] },
    },
    run: (k, { y, a, b, bias, residual }) => k.matmul(y, a, b, { bias, residual }),
  },
  {
    kernel: 'matmul',
    name: 'matmul with gelu, its input kept',
    tensors: {
      y: out([9, 16]),
      pre: out([9, 16]),
      a: { shape: [9, 24] },
      b: { shape: [24, 16] },
      bias: { shape: [16] },
    },
    run: (k, { y, pre, a, b, bias }) => k.matmul(y, a, b, { bias, gelu: { preActivation: pre } }),
  },
  {
    kernel: 'matmul',
    name: 'matmul with gelu between column slices, without bias',
    tensors: {
      y: slice([9, 13], 3, 19),
      pre: slice([9, 13], 1, 15),
      a: { shape: [9, 21] },
      b: { shape: [13, 21] },
    },
    run: (k, { y, pre, a, b }) => k.matmul(y, a, b, { transposeB: true, gelu: { preActivation: pre } }),
  },
  {
    kernel: 'matmul',
    name: 'matmul with the backward of gelu',
    tensors: { y: out([9, 16]), pre: { shape: [9, 16] }, a: { shape: [9, 24] }, b: { shape: [16, 24] } },
    run: (k, { y, pre, a, b }) => k.matmul(y, a, b, { transposeB: true, geluBackward: pre }),
  },
  {
    kernel: 'matmul',
    name: 'matmul with the backward of gelu between column slices',
    tensors: {
      y: slice([9, 13], 3, 19),
      pre: slice([9, 13], 1, 15),
      a: { shape: [9, 21] },
      b: { shape: [21, 13] },
    },
    run: (k, { y, pre, a, b }) => k.matmul(y, a, b, { geluBackward: pre }),
  },
  ...[false, true].flatMap((accumulate): KernelCase[] => [
    {
      kernel: 'matmul',
      name: `matmul with the sums of its first factor, accumulate ${accumulate}`,
      tensors: {
        y: { shape: [16, 24], dtype: 'f32' },
        sums: { shape: [16], dtype: 'f32' },
        a: { shape: [40, 16] },
        b: slice([40, 24], 8, 40),
      },
      run: (k, { y, sums, a, b }) => k.matmul(y, a, b, { transposeA: true, accumulate, sumOfA: sums }),
    },
    {
      kernel: 'matmul',
      name: `matmul with the sums of its second factor, accumulate ${accumulate}`,
      tensors: {
        y: { shape: [24, 13], dtype: 'f32' },
        sums: { shape: [13], dtype: 'f32' },
        a: { shape: [37, 24] },
        b: slice([37, 13], 3, 19),
      },
      run: (k, { y, sums, a, b }) => k.matmul(y, a, b, { transposeA: true, accumulate, sumOfB: sums }),
    },
  ]),
]

const key = randomKey(3, 'kernel table')
const others: KernelCase[] = [
  {
    kernel: 'rope',
    name: 'rope into another tensor, columns past the heads copied',
    tensors: {
      y: slice([6, 13], 2, 17),
      x: { shape: [6, 13] },
      positions: { shape: [6], dtype: 'i32', values: [3, 0, 1, 2, 3, 1] },
      cos: f32(4, 2),
      sin: f32(4, 2),
    },
    run: (k, { y, x, positions, cos, sin }) =>
      k.rope(y, x, positions, cos, sin, { numHeads: 2, headDim: 4, inverse: true }),
  },
  {
    kernel: 'softmaxCrossEntropy',
    name: 'softmaxCrossEntropy without gradient leaves the logits',
    tensors: {
      losses: { ...out([5]), dtype: 'f32' },
      logits: { shape: [5, 37] },
      targets: { shape: [5], dtype: 'i32', values: [3, -1, 36, 0, 11] },
    },
    run: (k, { losses, logits, targets }) => k.softmaxCrossEntropy(losses, logits, targets, undefined),
  },
  {
    kernel: 'softmaxCrossEntropy',
    name: 'softmaxCrossEntropy with the gradient scaled up',
    tensors: {
      losses: { ...out([3]), dtype: 'f32' },
      logits: { shape: [3, 1021] },
      targets: { shape: [3], dtype: 'i32', values: [1020, -1, 7] },
      scalars: scalars({ gradScale: 1024 }),
    },
    run: (k, { losses, logits, targets, scalars }) => k.softmaxCrossEntropy(losses, logits, targets, scalars),
  },
  {
    kernel: 'randomNormal',
    name: 'randomNormal from the middle of a block',
    tensors: { y: out([20011]) },
    run: (k, { y }) => k.randomNormal(y, key, 3, 0.5, 2),
    isExact: true,
  },
  {
    kernel: 'randomNormal',
    name: 'randomNormal far out',
    tensors: { y: out([103]) },
    run: (k, { y }) => k.randomNormal(y, key, 2 ** 44 + 1, 0, 1),
    isExact: true,
  },
]

const adamOptions: AdamOptions = {
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  coupledDecay: false,
  convention: 'paper',
}

function adamRange({ w, m, v, g, working }: Record<string, Tensor>, weightDecay = 0.1): AdamRange {
  return { weight: w!, m: m!, v: v!, grad: g!, working, weightDecay }
}

const optimizers: KernelCase[] = [1, 0].flatMap((finite): KernelCase[] => {
  const suffix = finite === 1 ? '' : ', skipped'
  const state = { w: f32(N), m: f32(N), g: f32(N), scalars: scalars({ isFinite: finite }) }
  const second: KernelTensor = { ...f32(N), values: 'positive' }
  return [
    ...(['paper', 'notes'] as const).flatMap((convention) =>
      [false, true].map(
        (coupledDecay): KernelCase => ({
          kernel: 'adam',
          name: `adam, ${convention}, coupled decay ${coupledDecay}${suffix}`,
          tensors: { ...state, v: second },
          run: (k, t) => k.adam([adamRange(t)], t.scalars!, { ...adamOptions, coupledDecay, convention }),
        }),
      ),
    ),
    {
      kernel: 'adam',
      name: `adam of a hundred ranges with decays of their own${suffix}`,
      tensors: {
        ...Object.fromEntries(['w', 'm', 'g'].map((name) => [name, f32(100, 41)])),
        v: { ...f32(100, 41), values: 'positive' },
        scalars: state.scalars,
      },
      run: (k, { scalars, ...t }) => {
        const rowOf = (i: number) => Object.fromEntries(Object.entries(t).map(([name, x]) => [name, x.slice(i, 1)]))
        const ranges = Array.from({ length: 100 }, (_, i) => adamRange(rowOf(i), i / 100))
        k.adam(ranges, scalars!, adamOptions)
      },
    },
    {
      kernel: 'sgd',
      name: `sgd without momentum${suffix}`,
      tensors: state,
      run: (k, t) => k.sgd(t.w, undefined, t.g, t.scalars, { momentum: 0, nesterov: false, weightDecay: 0.1 }),
    },
    ...[false, true].flatMap((nesterov): KernelCase[] => [
      {
        kernel: 'sgd',
        name: `sgd, nesterov ${nesterov}${suffix}`,
        tensors: state,
        run: (k, t) => k.sgd(t.w, t.m, t.g, t.scalars, { momentum: 0.9, nesterov, weightDecay: 0.1 }),
      },
      {
        kernel: 'momentum',
        name: `momentum, nesterov ${nesterov}${suffix}`,
        tensors: { y: out([N]), ...state },
        run: (k, t) => k.momentum(t.y, t.m, t.g, t.scalars, { momentum: 0.95, nesterov }),
      },
    ]),
    {
      kernel: 'lion',
      name: `lion${suffix}`,
      tensors: state,
      run: (k, t) => k.lion(t.w, t.m, t.g, t.scalars, { beta1: 0.9, beta2: 0.99, weightDecay: 0.1 }),
    },
    {
      kernel: 'applyUpdate',
      name: `applyUpdate${suffix}`,
      tensors: { w: f32(N), update: { shape: [N] }, scalars: scalars({ isFinite: finite }) },
      run: (k, t) => k.applyUpdate(t.w, t.update, t.scalars, { scale: 0.7, weightDecay: 0.1 }),
    },
    ...workingCopies({ ...state, v: second, update: { shape: [N] }, working: { shape: [N] } }, suffix),
  ]
})

/** Every update that leaves its new weights rounded beside them. */
function workingCopies(tensors: KernelCase['tensors'], suffix: string): KernelCase[] {
  const updates: Partial<Record<keyof Kernels, KernelCase['run']>> = {
    adam: (k, t) => k.adam([adamRange(t)], t.scalars!, adamOptions),
    sgd: (k, t) => k.sgd(t.w, t.m, t.g, t.scalars, { momentum: 0.9, nesterov: true, weightDecay: 0.1 }, t.working),
    lion: (k, t) => k.lion(t.w, t.m, t.g, t.scalars, { beta1: 0.9, beta2: 0.99, weightDecay: 0.1 }, t.working),
    applyUpdate: (k, t) => k.applyUpdate(t.w, t.update, t.scalars, { scale: 0.7, weightDecay: 0.1 }, t.working),
  }
  return Object.entries(updates).map(([kernel, run]) => ({
    kernel: kernel as keyof Kernels,
    name: `${kernel} with a working copy${suffix}`,
    tensors,
    run,
    isAboutWorkingCopies: true,
  }))
}

export const kernelCases: readonly KernelCase[] = [...sums, ...products, ...others, ...optimizers, ...decodeCases]
