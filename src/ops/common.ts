// Small helpers for op files: shapes, costs, and where a parameter's gradient goes.
import { ShapeError } from '../core/errors.ts'
import type { Cost } from '../core/op.ts'
import { gradientTarget, Parameter } from '../core/parameter.ts'
import { show, type Tensor } from '../core/tensor.ts'

/** FLOPs and bytes of a call that reads and writes each of `tensors` once. */
export function cost(flops: number, ...tensors: (Tensor | undefined)[]): Cost {
  let bytes = 0
  for (const tensor of tensors) if (tensor !== undefined) bytes += tensor.size * tensor.device.itemBytes(tensor.dtype)
  return { flops, bytes }
}

export const NO_COST: Cost = { flops: 0, bytes: 0 }

/** Checks that the last dim of `x` is `width`. */
export function expectColumns(who: string, x: Tensor, width: number, because: string): void {
  if (x.columnCount !== width) {
    throw new ShapeError(`${who}: the last dim of x must be ${width} ${because}, got ${show(x.shape)}`)
  }
}

/** Whether this is a parameter whose gradient is wanted. */
export function isTrained(tensor: Tensor | undefined): tensor is Parameter {
  return tensor instanceof Parameter && tensor.requiresGrad
}

/** Hands `write` the gradient buffer of a trained parameter; does nothing for a frozen one. */
export function intoParameter(
  tensor: Tensor | undefined,
  write: (gradient: Tensor, accumulate: boolean) => void,
): void {
  if (!isTrained(tensor)) return
  const { gradient, accumulate } = gradientTarget(tensor)
  write(gradient, accumulate)
}
