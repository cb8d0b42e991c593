// swiglu: the gated activation of Llama's MLP on a fused gate|up projection.
import { ShapeError } from '../core/errors.ts'
import type { Op } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import { show, type Tensor } from '../core/tensor.ts'
import { cost, NO_COST } from './common.ts'

type Inputs = { gateUp: Tensor }
type Outputs = { out: Tensor }

export const swigluOp: Op<Inputs, Outputs, undefined> = {
  id: 'swiglu',
  outputs: ({ gateUp }) => ({ out: { shape: [...gateUp.shape.slice(0, -1), gateUp.columnCount / 2] } }),
  forward: (kernels, { gateUp }, { out }) => kernels.swiglu(out, gateUp),
  savedForInput: ['gateUp'],
  savedForWeight: [],
  backwardInput({ inputs, outputs }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { gateUp } = inputs
    gradients.overwrite(gateUp, (dGateUp) => gateUp.device.kernels.swigluBackward(dGateUp, dOut, gateUp))
  },
  isCheap: true,
  cost: ({ gateUp }) => {
    const bytes = cost(0, gateUp).bytes
    return {
      forward: { flops: 3 * gateUp.size, bytes: 1.5 * bytes },
      backwardInput: { flops: 6 * gateUp.size, bytes: 2.5 * bytes },
      backwardWeight: NO_COST,
    }
  },
}

/**
 * y = silu(gate) * up with silu(g) = g / (1 + exp(-g)).
 * @param gateUp  [.., 2F] float: F gate columns, then F up columns
 * @returns       [.., F]
 * @throws ShapeError if the last dim is odd
 * @see Shazeer 2020, arXiv:2002.05202
 */
export function swiglu(gateUp: Tensor): Tensor {
  if (gateUp.columnCount % 2 !== 0) {
    throw new ShapeError(`swiglu: the last dim must be gate and up side by side (even), got ${show(gateUp.shape)}`)
  }
  return apply(swigluOp, gateUp.device, { gateUp }, undefined).out
}
