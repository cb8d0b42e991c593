// rmsnorm: root-mean-square normalisation over the last dim.
import type { Fp8Weight } from '../core/fp8.ts'
import type { Op } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import { expectShape, type Tensor } from '../core/tensor.ts'
import { cost, intoParameter } from './common.ts'
import { castNormFp8, fp8OfNorm, savedColumnsSpec } from './fp8.ts'

type Inputs = { x: Tensor; weight: Tensor }
/** columns: out in fp8, transposed, where it is made so. */
type Outputs = { out: Tensor; rstd: Tensor; columns: Tensor | undefined }
type Attributes = {
  eps: number
  /** The weight that alone reads the result, where products with it are in fp8: then so is the result. */
  to: Fp8Weight | undefined
}

export const rmsnormOp: Op<Inputs, Outputs, Attributes> = {
  id: 'rmsnorm',
  weights: ['weight'],
  outputs({ x }, { to }) {
    const rstd = { shape: [x.rowCount], dtype: 'f32' } as const
    if (to === undefined) return { out: { shape: x.shape }, rstd }
    return {
      out: { shape: x.shape, isVirtual: true },
      rstd,
      columns: savedColumnsSpec(x.rowCount, x.columnCount, to)[0],
    }
  },
  forward(kernels, { x, weight }, { out, rstd, columns }, { eps, to }) {
    if (to === undefined || columns === undefined) kernels.rmsnorm(out, rstd, x, weight, eps)
    else out.fp8 = castNormFp8(x, columns, to, { weight, rstd, eps })
  },
  savedForInput: ['x', 'weight', 'rstd'],
  savedForWeight: ['x', 'rstd'],
  backwardInput({ inputs, outputs, attributes, isAlive }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { x, weight } = inputs
    if (!isAlive) x.device.kernels.rmsnorm(outputs.out, outputs.rstd, x, weight, attributes.eps)
    gradients.into(x, (dx, accumulate) =>
      x.device.kernels.rmsnormBackwardInput(dx, dOut, x, weight, outputs.rstd, accumulate),
    )
  },
  backwardWeight({ inputs, outputs }, gradients) {
    const dOut = gradients.of(outputs.out)
    intoParameter(inputs.weight, (dWeight, accumulate) =>
      inputs.x.device.kernels.rmsnormBackwardWeight(dWeight, dOut, inputs.x, outputs.rstd, accumulate),
    )
  },
  backward({ inputs, outputs, attributes, isAlive }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { x, weight } = inputs
    const again = isAlive ? undefined : { out: outputs.out, eps: attributes.eps }
    intoParameter(weight, (dWeight, addsWeight) =>
      gradients.into(x, (dx, addsInput) => {
        const accumulate = { dx: addsInput, dWeight: addsWeight }
        x.device.kernels.rmsnormBackward(dx, dWeight, dOut, x, weight, outputs.rstd, accumulate, again)
      }),
    )
  },
  remakesOut: ({ to }) => to === undefined,
  isCheap: true,
  cost: ({ x, weight }) => ({
    forward: cost(4 * x.size, x, x, weight),
    backwardInput: cost(8 * x.size, x, x, x, weight),
    backwardWeight: cost(3 * x.size, x, x, weight),
  }),
}

/**
 * Root-mean-square normalisation over the last dim.
 *     y = x * rstd * weight,   rstd = 1 / sqrt(mean(x^2) + eps)
 * Sums are at least f32. Saves `rstd` [rows] f32 for backward.
 * @param x       [.., D] float
 * @param weight  [D], same dtype as x
 * @param eps     added inside the root (Llama 1e-5, Qwen 1e-6)
 * @param to      weight of the linear that alone will read the result: where its products are in fp8, so is the result
 * @returns       [.., D]
 * @throws ShapeError if weight is not [D]
 * @see Zhang & Sennrich 2019, arXiv:1910.07467
 */
export function rmsnorm(x: Tensor, weight: Tensor, eps = 1e-6, to?: Tensor): Tensor {
  expectShape('rmsnorm', 'weight', weight, [x.columnCount], 'to match x')
  return apply(rmsnormOp, x.device, { x, weight }, { eps, to: fp8OfNorm(to, x) }).out
}
