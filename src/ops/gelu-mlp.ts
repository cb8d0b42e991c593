// geluMlp: GPT-2's MLP as one op, so that the activation and its derivative can be made where a product already has its
// result: y = gelu(x W1 + b1) W2 + b2 + residual. Weights are stored [in, out] (Conv1D).
import { emptyTensor } from '../core/allocator.ts'
import { ShapeError } from '../core/errors.ts'
import type { Gradients } from '../core/gradients.ts'
import type { Kernels } from '../core/kernels.ts'
import type { Op, TapeEntry } from '../core/op.ts'
import { apply, currentTape } from '../core/tape.ts'
import { expectShape, type Tensor } from '../core/tensor.ts'
import { cost, expectColumns } from './common.ts'
import { fp8Of } from './fp8.ts'
import { geluMlpFp8 } from './gelu-mlp-fp8.ts'
import { weightAndBiasGradients } from './linear.ts'

export type GeluMlpInputs = {
  x: Tensor
  weight1: Tensor
  bias1: Tensor
  weight2: Tensor
  bias2: Tensor
  residual: Tensor | undefined
}
type Outputs = { out: Tensor; preActivation: Tensor; activated: Tensor | undefined }
type Attributes = {
  /** Whether gelu(x W1 + b1) is kept for the backward; else it is made again from what went into it. */
  keepsActivated: boolean
}
type Entry = TapeEntry<GeluMlpInputs, Outputs, Attributes>

function kernelsOf({ x }: GeluMlpInputs): Kernels {
  return x.device.kernels
}

/** d(x W1 + b1), which both halves of the backward start from. */
function preActivationGradient({ inputs, outputs }: Entry, dOut: Tensor): Tensor {
  const { preActivation } = outputs
  const dPre = emptyTensor(preActivation.device, preActivation.shape, preActivation.dtype, 'workspace')
  kernelsOf(inputs).matmul(dPre, dOut, inputs.weight2, { transposeB: true, geluBackward: preActivation })
  return dPre
}

function inputGradient({ inputs }: Entry, dPre: Tensor, gradients: Gradients): void {
  if (!gradients.needs(inputs.x)) return
  gradients.into(inputs.x, (dx, accumulate) =>
    kernelsOf(inputs).matmul(dx, dPre, inputs.weight1, { transposeB: true, accumulate }),
  )
}

function weightGradients({ inputs, outputs }: Entry, dOut: Tensor, dPre: Tensor, gradients: Gradients): void {
  const { x, weight1, bias1, weight2 } = inputs
  const bias2 = gradients.hasRowSums(outputs.out) ? undefined : inputs.bias2
  weightAndBiasGradients(weight2, bias2, activatedOf(inputs, outputs), dOut, 'in-out')
  weightAndBiasGradients(weight1, bias1, x, dPre, 'in-out')
}

function activatedOf(inputs: GeluMlpInputs, { activated, preActivation }: Outputs): Tensor {
  if (activated !== undefined) return activated
  const again = emptyTensor(preActivation.device, preActivation.shape, preActivation.dtype, 'workspace')
  kernelsOf(inputs).gelu(again, preActivation, 'tanh')
  return again
}

export const geluMlpOp: Op<GeluMlpInputs, Outputs, Attributes> = {
  id: 'geluMlp',
  weights: ['weight1', 'bias1', 'weight2', 'bias2'],
  biasOfOut: 'bias2',
  outputs({ x, weight1, weight2 }, { keepsActivated }) {
    const hidden = { shape: [...x.shape.slice(0, -1), weight1.shape[1]!] }
    return {
      out: { shape: [...x.shape.slice(0, -1), weight2.shape[1]!] },
      preActivation: hidden,
      ...(keepsActivated && { activated: hidden }),
    }
  },
  forward(kernels, { x, weight1, bias1, weight2, bias2, residual }, { out, preActivation, activated }) {
    const act = activated ?? emptyTensor(preActivation.device, preActivation.shape, preActivation.dtype, 'workspace')
    kernels.matmul(act, x, weight1, { bias: bias1, gelu: { preActivation } })
    kernels.matmul(out, act, weight2, { bias: bias2, ...(residual && { residual }) })
  },
  savedForInput: ['weight1', 'weight2', 'preActivation'],
  savedForWeight: ['x', 'weight2', 'preActivation', 'activated'],
  backwardInput(entry, gradients) {
    const dOut = gradients.of(entry.outputs.out)
    inputGradient(entry, preActivationGradient(entry, dOut), gradients)
    // Last, because the residual takes dOut over and may add to it.
    if (gradients.needs(entry.inputs.residual)) gradients.pass(entry.inputs.residual, dOut)
  },
  backwardWeight(entry, gradients) {
    const dOut = gradients.of(entry.outputs.out)
    weightGradients(entry, dOut, preActivationGradient(entry, dOut), gradients)
  },
  backward(entry, gradients) {
    const dOut = gradients.of(entry.outputs.out)
    const dPre = preActivationGradient(entry, dOut)
    weightGradients(entry, dOut, dPre, gradients)
    inputGradient(entry, dPre, gradients)
    if (gradients.needs(entry.inputs.residual)) gradients.pass(entry.inputs.residual, dOut)
  },
  isCheap: false,
  cost({ x, weight1, bias1, weight2, bias2, residual }, { keepsActivated }) {
    const hiddenSize = x.rowCount * weight1.shape[1]!
    const hiddenBytes = hiddenSize * x.device.itemBytes(x.dtype)
    const outBytes = x.rowCount * weight2.shape[1]! * x.device.itemBytes(x.dtype)
    const product1 = 2 * x.size * weight1.shape[1]!
    const product2 = 2 * hiddenSize * weight2.shape[1]!
    return {
      forward: {
        flops: product1 + product2 + 10 * hiddenSize,
        bytes: cost(0, x, weight1, bias1, weight2, bias2, residual).bytes + 3 * hiddenBytes + outBytes,
      },
      backwardInput: {
        flops: product1 + product2 + 16 * hiddenSize,
        bytes: cost(0, weight1, weight2, x).bytes + outBytes + 3 * hiddenBytes,
      },
      backwardWeight: {
        flops: product1 + product2 + (keepsActivated ? 0 : 10 * hiddenSize),
        bytes: cost(0, x, weight1, bias1, weight2, bias2).bytes + outBytes + (keepsActivated ? 2 : 4) * hiddenBytes,
      },
    }
  },
}

/**
 * y = gelu(x W1 + b1) W2 + b2 + residual, gelu in GPT-2's tanh approximation.
 *     dPre = (dy W2^T) * gelu'(x W1 + b1),  dx = dPre W1^T,  dW1 = x^T dPre,  dW2 = gelu(x W1 + b1)^T dy,
 *     db = sums over rows,  dresidual = dy
 * Saves the pre-activation [.., F], and the activation unless recomputation is asked for.
 * @param x         [.., I] float
 * @param weight1   [I, F]
 * @param bias1     [F]
 * @param weight2   [F, O]
 * @param bias2     [O]
 * @param residual  [.., O], added to the result
 * @returns         [.., O]
 * @throws ShapeError if the widths do not fit
 * @see Hendrycks & Gimpel 2016, arXiv:1606.08415; Radford et al. 2019 (GPT-2)
 */
export function geluMlp(
  x: Tensor,
  up: { weight: Tensor; bias: Tensor },
  down: { weight: Tensor; bias: Tensor },
  residual?: Tensor,
): Tensor {
  const [hidden, features] = [up.bias.size, down.bias.size]
  if (up.weight.shape.length !== 2) throw new ShapeError('geluMlp: weight1 must be a matrix [in, hidden]')
  expectColumns('geluMlp', x, up.weight.shape[0]!, 'to match weight1')
  expectShape('geluMlp', 'weight1', up.weight, [x.columnCount, hidden], 'to match x and bias1')
  expectShape('geluMlp', 'weight2', down.weight, [hidden, features], 'to match bias1 and bias2')
  if (residual) expectShape('geluMlp', 'residual', residual, [...x.shape.slice(0, -1), features], 'to match the output')
  const inputs = {
    x,
    weight1: up.weight,
    bias1: up.bias,
    weight2: down.weight,
    bias2: down.bias,
    residual,
  }
  const [fp8Up, fp8Down] = [fp8Of(up.weight, x), fp8Of(down.weight, x)]
  if (fp8Up && fp8Down) return geluMlpFp8(inputs, { weight1: fp8Up, weight2: fp8Down })
  const keepsActivated = (currentTape()?.recompute ?? 'none') === 'none'
  return apply(geluMlpOp, x.device, inputs, { keepsActivated }).out
}
