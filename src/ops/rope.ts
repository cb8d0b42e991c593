// rope: rotary position embedding on the leading heads of a row (q and k of a fused qkv), in place.
import { ShapeError } from '../core/errors.ts'
import type { AttentionOptions } from '../core/kernels.ts'
import type { Op, TapeEntry } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import { show, type Tensor } from '../core/tensor.ts'
import { cost, NO_COST } from './common.ts'

type Inputs = { x: Tensor; positions: Tensor; cos: Tensor; sin: Tensor }
type Outputs = { out: Tensor }
type Attributes = { numHeads: number; headDim: number }

export const ropeOp: Op<Inputs, Outputs, Attributes> = {
  id: 'rope',
  sliceable: ['x'],
  outputs: ({ x }) => ({ out: { inPlaceOf: x } }),
  forward: (kernels, { x, positions, cos, sin }, { out }, attributes) =>
    kernels.rope(out, x, positions, cos, sin, { ...attributes, inverse: false }),
  savedForInput: ['positions', 'cos', 'sin'],
  savedForWeight: [],
  backwardInput({ inputs, outputs, attributes }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { x, positions, cos, sin } = inputs
    if (!gradients.isAnticipated(outputs.out)) {
      x.device.kernels.rope(dOut, dOut, positions, cos, sin, { ...attributes, inverse: true })
    }
    gradients.pass(x, dOut)
  },
  isCheap: false,
  cost: ({ x, positions }, { numHeads, headDim }) => {
    const rotated = x.rowCount * numHeads * headDim
    const once = { flops: 3 * rotated, bytes: 2 * rotated * x.device.itemBytes(x.dtype) + cost(0, positions).bytes }
    return { forward: once, backwardInput: once, backwardWeight: NO_COST }
  },
}

/**
 * What a backward needs that turns the gradients of q and k back itself: absent unless q and k are just what one rope has
 * turned. The gradient of what that rope made has to be anticipated then.
 */
export function rotationOf(
  q: Tensor,
  k: Tensor,
  { numHeads, numKeyValueHeads, headDim }: Omit<AttentionOptions, 'docStart' | 'bias'>,
): AttentionOptions['unrotate'] {
  const root = q.base
  const producer = root?.producer as TapeEntry<Inputs, Outputs, Attributes> | undefined
  if (root === undefined || k.base !== root || producer?.op !== ropeOp) return undefined
  const { attributes, inputs } = producer
  const isAll = attributes.numHeads === numHeads + numKeyValueHeads && attributes.headDim === headDim
  if (!isAll || q.offset !== root.offset || k.offset !== root.offset + numHeads * headDim) return undefined
  return { positions: inputs.positions, cos: inputs.cos, sin: inputs.sin }
}

/**
 * Rotates each head's pair (i, i + K/2) by positions * frequency_i, in the memory of `x` (which must not be used
 * again). The backward rotates back.
 * @param x          [.., C] float with C >= numHeads * headDim; further columns are left as they are
 * @param positions  i32, one for each row of x, below the tables' length (checked where batches are made)
 * @param cos, sin   [maxPositions, headDim / 2]
 * @returns          the same memory, rotated
 * @throws ShapeError if the heads do not fit
 * @see Su et al. 2021, arXiv:2104.09864; halves are paired as in Hugging Face, not neighbours as in the paper
 */
export function rope(
  x: Tensor,
  positions: Tensor,
  tables: { cos: Tensor; sin: Tensor },
  options: { numHeads: number; headDim: number },
): Tensor {
  if (options.numHeads * options.headDim > x.columnCount || options.headDim % 2 !== 0) {
    throw new ShapeError(
      `rope: ${options.numHeads} heads of even width ${options.headDim} must fit in the last dim of x, got ${show(x.shape)}`,
    )
  }
  if (positions.size !== x.rowCount) {
    throw new ShapeError(
      `rope: positions must have one entry for each row of x ${show(x.shape)}, got ${show(positions.shape)}`,
    )
  }
  return apply(ropeOp, x.device, { x, positions, ...tables }, { numHeads: options.numHeads, headDim: options.headDim })
    .out
}
