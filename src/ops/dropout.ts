// dropout: zeroes elements by a counter-based mask that depends on (seed, layer, sequence, position, column) only.
import { ShapeError } from '../core/errors.ts'
import type { RandomKey } from '../core/kernels.ts'
import type { Op } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import { expectShape, show, type Tensor } from '../core/tensor.ts'
import { cost, NO_COST } from './common.ts'

type Inputs = { x: Tensor; sampleIndex: Tensor }
type Outputs = { out: Tensor }
type Attributes = { p: number; key: RandomKey }

export const dropoutOp: Op<Inputs, Outputs, Attributes> = {
  id: 'dropout',
  outputs: ({ x }) => ({ out: { shape: x.shape } }),
  forward: (kernels, { x, sampleIndex }, { out }, { p, key }) => kernels.dropout(out, x, sampleIndex, p, key),
  savedForInput: ['sampleIndex'],
  savedForWeight: [],
  backwardInput({ inputs, outputs, attributes }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { x, sampleIndex } = inputs
    // The mask is drawn again, not stored.
    x.device.kernels.dropout(dOut, dOut, sampleIndex, attributes.p, attributes.key)
    gradients.pass(x, dOut)
  },
  isCheap: true,
  cost: ({ x }) => ({
    forward: cost(2 * x.size, x, x),
    backwardInput: cost(2 * x.size, x, x),
    backwardWeight: NO_COST,
  }),
}

/**
 * y = x / (1 - p) where kept, else 0.
 * @param x            [B, T, D] float
 * @param sampleIndex  [B, 2] i32: low and high word of each sequence's global number in the run, so that the mask
 *                     does not depend on how a batch is split
 * @param options.p    probability of dropping, in [0, 1); 0 returns x itself
 * @param options.key  the layer's stream for this step, from core/random.ts
 * @throws ShapeError if the shapes do not fit
 * @see Srivastava et al. 2014, JMLR 15
 */
export function dropout(x: Tensor, sampleIndex: Tensor, options: { p: number; key: RandomKey }): Tensor {
  if (options.p === 0) return x
  if (x.shape.length !== 3) throw new ShapeError(`dropout: x must be [B, T, D], got ${show(x.shape)}`)
  expectShape('dropout', 'sampleIndex', sampleIndex, [x.shape[0]!, 2])
  return apply(dropoutOp, x.device, { x, sampleIndex }, { p: options.p, key: options.key }).out
}
