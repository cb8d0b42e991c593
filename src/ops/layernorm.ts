// layernorm: normalisation to mean 0 and variance 1 over the last dim, with weight and bias.
import { emptyTensor } from '../core/allocator.ts'
import type { Op, OutputSpec } from '../core/op.ts'
import { gradientTarget } from '../core/parameter.ts'
import { apply } from '../core/tape.ts'
import { expectShape, type Tensor } from '../core/tensor.ts'
import { cost, intoParameter, isTrained } from './common.ts'

type Inputs = { x: Tensor; weight: Tensor; bias: Tensor }
type Outputs = { out: Tensor; mean: Tensor; rstd: Tensor }
type Attributes = { eps: number }

/** Memory for a gradient that the kernel makes and nobody wants. */
function unwanted(parameter: Tensor): Tensor {
  return emptyTensor(parameter.device, parameter.shape, 'f32', 'workspace')
}

export const layernormOp: Op<Inputs, Outputs, Attributes> = {
  id: 'layernorm',
  weights: ['weight', 'bias'],
  outputs: ({ x }) => {
    const statistic: OutputSpec = { shape: [x.rowCount], dtype: 'f32' }
    return { out: { shape: x.shape }, mean: statistic, rstd: statistic }
  },
  forward: (kernels, { x, weight, bias }, { out, mean, rstd }, { eps }) =>
    kernels.layernorm(out, mean, rstd, x, weight, bias, eps),
  savedForInput: ['x', 'weight', 'mean', 'rstd'],
  savedForWeight: ['x', 'mean', 'rstd'],
  backwardInput({ inputs, outputs }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { x, weight } = inputs
    gradients.into(x, (dx, accumulate) =>
      x.device.kernels.layernormBackwardInput(dx, dOut, x, weight, outputs.mean, outputs.rstd, accumulate),
    )
  },
  backwardWeight({ inputs, outputs }, gradients) {
    const { x, weight, bias } = inputs
    const dOut = gradients.of(outputs.out)
    const write = (dWeight: Tensor, dBias: Tensor, accumulate: boolean): void =>
      x.device.kernels.layernormBackwardWeight(dWeight, dBias, dOut, x, outputs.mean, outputs.rstd, accumulate)
    if (isTrained(weight) && isTrained(bias) && weight.hasGradient === bias.hasGradient) {
      const { gradient: dWeight, accumulate } = gradientTarget(weight)
      write(dWeight, gradientTarget(bias).gradient, accumulate)
      return
    }
    // The kernel makes both: here one of them is not wanted, or only one is added to.
    intoParameter(weight, (dWeight, accumulate) => write(dWeight, unwanted(weight), accumulate))
    intoParameter(bias, (dBias, accumulate) => write(unwanted(bias), dBias, accumulate))
  },
  backward({ inputs, outputs }, gradients) {
    const { x, weight, bias } = inputs
    const dOut = gradients.of(outputs.out)
    const target = (parameter: Tensor) =>
      isTrained(parameter) ? gradientTarget(parameter) : { gradient: unwanted(parameter), accumulate: false }
    const [dWeight, dBias] = [target(weight), target(bias)]
    gradients.into(x, (dx, accumulate) =>
      x.device.kernels.layernormBackward(
        dx,
        dWeight.gradient,
        dBias.gradient,
        dOut,
        x,
        weight,
        outputs.mean,
        outputs.rstd,
        { dx: accumulate, dWeight: dWeight.accumulate, dBias: dBias.accumulate },
      ),
    )
  },
  isCheap: true,
  cost: ({ x, weight, bias }) => ({
    forward: cost(7 * x.size, x, x, weight, bias),
    backwardInput: cost(11 * x.size, x, x, x, weight),
    backwardWeight: cost(5 * x.size, x, x, weight, bias),
  }),
}

/**
 * Layer normalisation over the last dim.
 *     y = (x - mean) * rstd * weight + bias,   rstd = 1 / sqrt(variance + eps)  (biased variance)
 * Saves `mean` and `rstd` [rows] f32 for backward.
 * @param x       [.., D] float
 * @param weight  [D]
 * @param bias    [D]
 * @param eps     added inside the root (GPT-2 1e-5)
 * @returns       [.., D]
 * @throws ShapeError if weight or bias is not [D]
 * @see Ba, Kiros & Hinton 2016, arXiv:1607.06450
 */
export function layernorm(x: Tensor, weight: Tensor, bias: Tensor, eps = 1e-5): Tensor {
  expectShape('layernorm', 'weight', weight, [x.columnCount], 'to match x')
  expectShape('layernorm', 'bias', bias, [x.columnCount], 'to match x')
  return apply(layernormOp, x.device, { x, weight, bias }, { eps }).out
}
