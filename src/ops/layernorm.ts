// layernorm: normalisation to mean 0 and variance 1 over the last dim, with weight and bias.
import { emptyTensor } from '../core/allocator.ts'
import type { Fp8Weight } from '../core/fp8.ts'
import type { Op, OutputSpec } from '../core/op.ts'
import { gradientTarget } from '../core/parameter.ts'
import { apply } from '../core/tape.ts'
import { expectShape, type Tensor } from '../core/tensor.ts'
import { cost, intoParameter, isTrained } from './common.ts'
import { castNormFp8, fp8OfNorm, savedColumnsSpec } from './fp8.ts'

type Inputs = { x: Tensor; weight: Tensor; bias: Tensor }
/** columns: out in fp8, transposed, where it is made so. */
type Outputs = { out: Tensor; mean: Tensor; rstd: Tensor; columns: Tensor | undefined }
type Attributes = {
  eps: number
  /** The weight that alone reads the result, where products with it are in fp8: then so is the result. */
  to: Fp8Weight | undefined
}

/** Memory for a gradient that the kernel makes and nobody wants. */
function unwanted(parameter: Tensor): Tensor {
  return emptyTensor(parameter.device, parameter.shape, 'f32', 'workspace')
}

export const layernormOp: Op<Inputs, Outputs, Attributes> = {
  id: 'layernorm',
  weights: ['weight', 'bias'],
  outputs({ x }, { to }) {
    const statistic: OutputSpec = { shape: [x.rowCount], dtype: 'f32' }
    const statistics = { mean: statistic, rstd: statistic }
    if (to === undefined) return { out: { shape: x.shape }, ...statistics }
    const [columns] = savedColumnsSpec(x.rowCount, x.columnCount, to)
    return { out: { shape: x.shape, isVirtual: true }, ...statistics, columns }
  },
  forward(kernels, { x, weight, bias }, { out, mean, rstd, columns }, { eps, to }) {
    if (to === undefined || columns === undefined) kernels.layernorm(out, mean, rstd, x, weight, bias, eps)
    else out.fp8 = castNormFp8(x, columns, to, { weight, bias, mean, rstd, eps })
  },
  savedForInput: ['x', 'weight', 'mean', 'rstd'],
  savedForWeight: ['x', 'mean', 'rstd'],
  backwardInput({ inputs, outputs, attributes, isAlive }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { x, weight, bias } = inputs
    const { out, mean, rstd } = outputs
    if (!isAlive) x.device.kernels.layernorm(out, mean, rstd, x, weight, bias, attributes.eps)
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
  backward({ inputs, outputs, attributes, isAlive }, gradients) {
    const { x, weight, bias } = inputs
    const dOut = gradients.of(outputs.out)
    const target = (parameter: Tensor) =>
      isTrained(parameter) ? gradientTarget(parameter) : { gradient: unwanted(parameter), accumulate: false }
    const [dWeight, dBias] = [target(weight), target(bias)]
    const rowSums = gradients.claimRowSums(x)
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
        rowSums && { sums: rowSums.gradient, accumulate: rowSums.accumulate },
        isAlive ? undefined : { out: outputs.out, bias, eps: attributes.eps },
      ),
    )
  },
  remakesOut: ({ to }) => to === undefined,
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
 * @param to      weight of the linear that alone will read the result: where its products are in fp8, so is the result
 * @returns       [.., D]
 * @throws ShapeError if weight or bias is not [D]
 * @see Ba, Kiros & Hinton 2016, arXiv:1607.06450
 */
export function layernorm(x: Tensor, weight: Tensor, bias: Tensor, eps = 1e-5, to?: Tensor): Tensor {
  expectShape('layernorm', 'weight', weight, [x.columnCount], 'to match x')
  expectShape('layernorm', 'bias', bias, [x.columnCount], 'to match x')
  return apply(layernormOp, x.device, { x, weight, bias }, { eps, to: fp8OfNorm(to, x) }).out
}
