// What a backward asks of an entry of the tape before it runs it: whether it has a gradient, which halves are wanted, and
// whether the gradients of its weights wait for the entry before it. Runs nothing itself: tape.ts does.
import type { Gradients } from './gradients.ts'
import type { NamedTensors, TapeEntry } from './op.ts'
import { Parameter } from './parameter.ts'

/** Whether the gradients of weights of an entry should come after the backward of the entry before it. */
export function waits(entry: TapeEntry, before: TapeEntry | undefined, gradients: Gradients): boolean {
  const { op, inputs } = entry
  if (before === undefined || before.isAlive || !before.op.remakesOut?.(before.attributes)) return false
  if (op.backward !== undefined || op.backwardWeight === undefined || !trainsWeights(op, inputs)) return false
  const { out } = before.outputs
  const isRemade = (name: string): boolean => (inputs[name]?.base ?? inputs[name]) === out
  // What both read may be a residual: its gradient is then that of this entry's output, taken over, and `before` adds to it.
  const others = Object.values(inputs).map((tensor) => tensor?.base ?? tensor)
  const isShared = Object.values(before.inputs).some((t) => t !== undefined && others.includes(t.base ?? t))
  return (
    !isShared &&
    op.savedForWeight.some(isRemade) &&
    !op.savedForInput.some(isRemade) &&
    gradients.needs(out) &&
    wantsActivationGradient(before.op, before.inputs, gradients)
  )
}

export function dropGradients({ outputs }: TapeEntry, gradients: Gradients): void {
  for (const tensor of Object.values(outputs)) if (tensor !== undefined) gradients.drop(tensor)
}

export function hasGradient(entry: TapeEntry, gradients: Gradients): boolean {
  for (const output of Object.values(entry.outputs)) {
    if (output !== undefined && gradients.find(output) !== undefined) return true
  }
  return false
}

export function trainsWeights({ weights = [] }: TapeEntry['op'], inputs: NamedTensors): boolean {
  return weights.some((name) => {
    const tensor = inputs[name]
    return tensor instanceof Parameter && tensor.requiresGrad
  })
}

/** A parameter in a place that is no weight of the op is an activation like any other. */
export function wantsActivationGradient(
  { weights }: TapeEntry['op'],
  inputs: NamedTensors,
  gradients: Gradients,
): boolean {
  return Object.entries(inputs).some(([name, tensor]) => !weights?.includes(name) && gradients.needs(tensor))
}
