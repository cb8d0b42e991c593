// rmsnorm: root-mean-square normalisation over the last dim.
import type { Op } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import { expectShape, type Tensor } from '../core/tensor.ts'
import { cost, intoParameter } from './common.ts'

type Inputs = { x: Tensor; weight: Tensor }
type Outputs = { out: Tensor; rstd: Tensor }
type Attributes = { eps: number }

export const rmsnormOp: Op<Inputs, Outputs, Attributes> = {
  id: 'rmsnorm',
  weights: ['weight'],
  outputs: ({ x }) => ({ out: { shape: x.shape }, rstd: { shape: [x.rowCount], dtype: 'f32' } }),
  forward: (kernels, { x, weight }, { out, rstd }, { eps }) => kernels.rmsnorm(out, rstd, x, weight, eps),
  savedForInput: ['x', 'weight', 'rstd'],
  savedForWeight: ['x', 'rstd'],
  backwardInput({ inputs, outputs }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { x, weight } = inputs
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
  backward({ inputs, outputs }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { x, weight } = inputs
    intoParameter(weight, (dWeight, addsWeight) =>
      gradients.into(x, (dx, addsInput) =>
        x.device.kernels.rmsnormBackward(dx, dWeight, dOut, x, weight, outputs.rstd, {
          dx: addsInput,
          dWeight: addsWeight,
        }),
      ),
    )
  },
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
 * @returns       [.., D]
 * @throws ShapeError if weight is not [D]
 * @see Zhang & Sennrich 2019, arXiv:1910.07467
 */
export function rmsnorm(x: Tensor, weight: Tensor, eps = 1e-6): Tensor {
  expectShape('rmsnorm', 'weight', weight, [x.columnCount], 'to match x')
  return apply(rmsnormOp, x.device, { x, weight }, { eps }).out
}
