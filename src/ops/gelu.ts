// gelu: Gaussian error linear unit, exact or in GPT-2's tanh approximation.
import type { Op } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import { cost, NO_COST } from './common.ts'

type Inputs = { x: Tensor }
type Outputs = { out: Tensor }
type Attributes = { approximate: 'none' | 'tanh' }

export const geluOp: Op<Inputs, Outputs, Attributes> = {
  id: 'gelu',
  outputs: ({ x }) => ({ out: { shape: x.shape } }),
  forward: (kernels, { x }, { out }, { approximate }) => kernels.gelu(out, x, approximate),
  savedForInput: ['x'],
  savedForWeight: [],
  backwardInput({ inputs, outputs, attributes }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { x } = inputs
    // In the memory of dOut, which nobody needs after this.
    x.device.kernels.geluBackward(dOut, dOut, x, attributes.approximate)
    gradients.pass(x, dOut)
  },
  isCheap: true,
  cost: ({ x }) => ({
    forward: cost(10 * x.size, x, x),
    backwardInput: cost(16 * x.size, x, x, x),
    backwardWeight: NO_COST,
  }),
}

/**
 * y = x * Phi(x), Phi the normal distribution function; 'tanh' = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
 * @param x            [..] float
 * @param approximate  'none' (erf) or 'tanh' (GPT-2's gelu_new)
 * @returns            same shape
 * @see Hendrycks & Gimpel 2016, arXiv:1606.08415
 */
export function gelu(x: Tensor, approximate: 'none' | 'tanh' = 'none'): Tensor {
  return apply(geluOp, x.device, { x }, { approximate }).out
}
