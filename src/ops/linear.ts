// linear: y = x W^T + bias + residual, the op that nearly all FLOPs are in. The weight is stored as its family
// stores it: [out, in] (PyTorch's Linear) or [in, out] (GPT-2's Conv1D), so no file needs a transposition.
import { ShapeError } from '../core/errors.ts'
import type { Op } from '../core/op.ts'
import { gradientTarget } from '../core/parameter.ts'
import { apply } from '../core/tape.ts'
import { expectShape, show, type Tensor } from '../core/tensor.ts'
import { cost, expectColumns, intoParameter, isTrained } from './common.ts'
import { fp8Of } from './fp8.ts'
import { linearFp8 } from './linear-fp8.ts'

type Inputs = { x: Tensor; weight: Tensor; bias: Tensor | undefined; residual: Tensor | undefined }
type Outputs = { out: Tensor }
/** How the weight is stored: [out, in] or [in, out]. */
export type Layout = 'out-in' | 'in-out'
type Attributes = { layout: Layout }

function outFeatures(weight: Tensor, layout: Attributes['layout']): number {
  return weight.shape[layout === 'out-in' ? 0 : 1]!
}

/** dW = dy^T x (or x^T dy) and dbias = sum of dy over rows, in one pass over dy where both are wanted. */
export function weightAndBiasGradients(
  weight: Tensor,
  bias: Tensor | undefined,
  x: Tensor,
  dOut: Tensor,
  layout: Attributes['layout'],
): void {
  const { kernels } = x.device
  const isOutIn = layout === 'out-in'
  const isTogether = isTrained(weight) && isTrained(bias) && weight.hasGradient === bias.hasGradient
  const dBias = isTogether ? gradientTarget(bias).gradient : undefined
  intoParameter(weight, (dWeight, accumulate) => {
    const options = { transposeA: true, accumulate }
    if (isOutIn) kernels.matmul(dWeight, dOut, x, dBias === undefined ? options : { ...options, sumOfA: dBias })
    else kernels.matmul(dWeight, x, dOut, dBias === undefined ? options : { ...options, sumOfB: dBias })
  })
  if (!isTogether) intoParameter(bias, (dBias, accumulate) => kernels.sumRows(dBias, dOut, accumulate))
}

export const linearOp: Op<Inputs, Outputs, Attributes> = {
  id: 'linear',
  sliceable: ['x'],
  weights: ['weight', 'bias'],
  biasOfOut: 'bias',
  outputs: ({ x, weight }, { layout }) => ({ out: { shape: [...x.shape.slice(0, -1), outFeatures(weight, layout)] } }),
  forward(kernels, { x, weight, bias, residual }, { out }, { layout }) {
    kernels.matmul(out, x, weight, {
      transposeB: layout === 'out-in',
      ...(bias && { bias }),
      ...(residual && { residual }),
    })
  },
  savedForInput: ['weight'],
  savedForWeight: ['x'],
  backwardInput({ inputs, outputs, attributes }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { x, weight, residual } = inputs
    const { kernels } = weight.device
    if (gradients.needs(x)) {
      gradients.into(x, (dx, accumulate) =>
        kernels.matmul(dx, dOut, weight, { transposeB: attributes.layout === 'in-out', accumulate }),
      )
    }
    // Last, because the residual takes dOut over and may add to it.
    if (gradients.needs(residual)) gradients.pass(residual, dOut)
  },
  backwardWeight({ inputs, outputs, attributes }, gradients) {
    const { x, weight } = inputs
    const bias = gradients.hasRowSums(outputs.out) ? undefined : inputs.bias
    weightAndBiasGradients(weight, bias, x, gradients.of(outputs.out), attributes.layout)
  },
  isCheap: false,
  cost({ x, weight, bias, residual }, { layout }) {
    const features = outFeatures(weight, layout)
    const flops = 2 * x.size * features
    const outBytes = x.rowCount * features * x.device.itemBytes(x.dtype)
    const base = cost(flops, x, weight)
    const withOut = { flops, bytes: base.bytes + outBytes }
    return {
      forward: { flops, bytes: cost(0, x, weight, bias, residual).bytes + outBytes },
      backwardInput: withOut,
      backwardWeight: withOut,
    }
  },
}

/**
 * y = x W^T + bias + residual.
 *     dx = dy W,  dW = dy^T x,  dbias = sum of dy over rows,  dresidual = dy
 * @param x        [.., I] float; may be a column slice
 * @param weight   [O, I], or [I, O] with layout 'in-out'
 * @param options.bias      [O]
 * @param options.residual  [.., O], added to the result (the residual stream)
 * A weight that has an fp8 form (core/fp8.ts) is multiplied in it while a tape records.
 * @returns        [.., O]
 * @throws ShapeError if the widths do not fit
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  options: { bias?: Tensor; residual?: Tensor; layout?: Attributes['layout'] } = {},
): Tensor {
  const layout = options.layout ?? 'out-in'
  if (weight.shape.length !== 2) throw new ShapeError(`linear: weight must be a matrix, got ${show(weight.shape)}`)
  expectColumns('linear', x, weight.shape[layout === 'out-in' ? 1 : 0]!, `to match weight ${show(weight.shape)}`)
  const features = outFeatures(weight, layout)
  if (options.bias) expectShape('linear', 'bias', options.bias, [features])
  if (options.residual) {
    expectShape('linear', 'residual', options.residual, [...x.shape.slice(0, -1), features], 'to match the output')
  }
  const inputs = { x, weight, bias: options.bias, residual: options.residual }
  const fp8 = fp8Of(weight, x)
  if (fp8 !== undefined) return linearFp8(inputs, layout, fp8)
  return apply(linearOp, x.device, inputs, { layout }).out
}
