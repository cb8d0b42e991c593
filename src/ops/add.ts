// add: elementwise sum of two tensors of one shape.
import type { Op } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import { expectShape, type Tensor } from '../core/tensor.ts'
import { cost, NO_COST } from './common.ts'

type Inputs = { a: Tensor; b: Tensor }
type Outputs = { out: Tensor }

export const addOp: Op<Inputs, Outputs, undefined> = {
  id: 'add',
  outputs: ({ a }) => ({ out: { shape: a.shape } }),
  forward: (kernels, { a, b }, { out }) => kernels.add(out, a, b),
  savedForInput: [],
  savedForWeight: [],
  backwardInput({ inputs, outputs }, gradients) {
    const dOut = gradients.of(outputs.out)
    // The second receiver copies; the first takes the gradient over as it is.
    if (gradients.needs(inputs.b)) gradients.copy(inputs.b, dOut)
    if (gradients.needs(inputs.a)) gradients.pass(inputs.a, dOut)
  },
  isCheap: true,
  cost: ({ a, b }) => ({ forward: cost(a.size, a, b, a), backwardInput: cost(0, a, b), backwardWeight: NO_COST }),
}

/**
 * out = a + b.
 * @param a [..] float
 * @param b same shape
 * @throws ShapeError if the shapes differ
 */
export function add(a: Tensor, b: Tensor): Tensor {
  expectShape('add', 'b', b, a.shape, 'to match a')
  return apply(addOp, a.device, { a, b }, undefined).out
}
