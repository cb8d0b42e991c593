// swiglu: the gated activation of Llama's MLP on a fused gate|up projection.
import { virtualTensor } from '../core/allocator.ts'
import { ShapeError } from '../core/errors.ts'
import type { Fp8Weight } from '../core/fp8.ts'
import type { Op } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import { show, type Tensor } from '../core/tensor.ts'
import { cost, NO_COST } from './common.ts'
import { castFp8, fp8Of, savedColumnsSpec } from './fp8.ts'

type Inputs = { gateUp: Tensor }
/** columns: out in fp8, transposed, where it is made so. */
type Outputs = { out: Tensor; columns: Tensor | undefined; columnScale: Tensor | undefined }
type Attributes = {
  /** The weights before and after, where products with them are in fp8: then so are the gradient of gateUp and out. */
  from: Fp8Weight | undefined
  to: Fp8Weight | undefined
}

export const swigluOp: Op<Inputs, Outputs, Attributes> = {
  id: 'swiglu',
  outputs({ gateUp }, { to }) {
    const shape = [...gateUp.shape.slice(0, -1), gateUp.columnCount / 2]
    if (to === undefined) return { out: { shape } }
    const [columns, columnScale] = savedColumnsSpec(gateUp.rowCount, gateUp.columnCount / 2, to)
    return { out: { shape, isVirtual: true }, columns, ...(columnScale && { columnScale }) }
  },
  forward(kernels, { gateUp }, { out, columns, columnScale }, { to }) {
    if (to === undefined || columns === undefined) kernels.swiglu(out, gateUp)
    else {
      const options = { activation: 'swiglu' } as const
      const size = [out.rowCount, out.columnCount] as const
      out.fp8 = castFp8(gateUp, size, 'e4m3', to.slots?.input, options, { columns, columnScale })
    }
  },
  savedForInput: ['gateUp'],
  savedForWeight: [],
  backwardInput({ inputs, outputs, attributes, isAlive }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { gateUp } = inputs
    const { from } = attributes
    if (from !== undefined) {
      const dGateUp = virtualTensor(gateUp.device, gateUp.shape)
      const size = [gateUp.rowCount, gateUp.columnCount] as const
      const options = { activation: 'swigluBackward', other: gateUp } as const
      dGateUp.fp8 = castFp8(dOut, size, 'e5m2', from.slots?.gradient, options)
      gradients.pass(gateUp, dGateUp)
      return
    }
    const out = isAlive ? undefined : outputs.out
    gradients.overwrite(gateUp, (dGateUp) => gateUp.device.kernels.swigluBackward(dGateUp, dOut, gateUp, out))
  },
  remakesOut: ({ from, to }) => from === undefined && to === undefined,
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
 * @param around  weights of the linears (without bias) that made gateUp and that alone will read the result: where their
 *   products are in fp8, their factors are made here
 * @returns       [.., F]
 * @throws ShapeError if the last dim is odd
 * @see Shazeer 2020, arXiv:2002.05202
 */
export function swiglu(gateUp: Tensor, around: { from?: Tensor; to?: Tensor } = {}): Tensor {
  if (gateUp.columnCount % 2 !== 0) {
    throw new ShapeError(`swiglu: the last dim must be gate and up side by side (even), got ${show(gateUp.shape)}`)
  }
  const from = around.from && fp8Of(around.from, gateUp)
  const to = around.to && fp8Of(around.to, gateUp)
  return apply(swigluOp, gateUp.device, { gateUp }, { from, to }).out
}
