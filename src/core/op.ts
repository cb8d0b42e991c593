// What an operation is: its shape rule, forward, the two halves of its backward with what each of them reads,
// and its cost. A file in src/ops makes one such object and a function that users call.
import type { Dtype } from './dtype.ts'
import type { Gradients } from './gradients.ts'
import type { Kernels } from './kernels.ts'
import type { Tensor } from './tensor.ts'

export type NamedTensors = Record<string, Tensor | undefined>

/**
 * An output to allocate, or one that lives in the memory of an input (an in-place op). `isVirtual`: without memory, because
 * the forward makes its numbers in fp8 only (Tensor.fp8).
 */
export type OutputSpec = { shape: readonly number[]; dtype?: Dtype; isVirtual?: boolean } | { inPlaceOf: Tensor }

/** Floating-point operations and bytes of device memory moved (each input read once, each output written once). */
export interface Cost {
  readonly flops: number
  readonly bytes: number
}

export interface OpCost {
  readonly forward: Cost
  readonly backwardInput: Cost
  readonly backwardWeight: Cost
}

/** A recorded call: data only. `isAlive` is false while its outputs are dropped and must be recomputed. */
export interface TapeEntry<I extends NamedTensors = NamedTensors, O extends NamedTensors = NamedTensors, A = unknown> {
  readonly op: Op<I, O, A>
  readonly inputs: I
  readonly outputs: O
  readonly attributes: A
  isAlive: boolean
  isDropped: boolean
}

export interface Op<I extends NamedTensors, O extends NamedTensors, A> {
  readonly id: string
  /** Inputs that may be column slices; the others must be contiguous. */
  readonly sliceable?: readonly (keyof I)[]
  /** Inputs that may exist in fp8 only. */
  readonly takesFp8?: readonly (keyof I)[]
  /** Inputs whose gradients are made as a parameter's (`backwardWeight`): to be trained they must be whole Parameters. */
  readonly weights?: readonly (keyof I)[]
  /** The input whose gradient is the sum over rows of the gradient of the output `out`: a bias that is added last. */
  readonly biasOfOut?: keyof I
  /** What to allocate; an output may be absent for some attributes. */
  outputs(inputs: I, attributes: A): { [K in keyof O]?: OutputSpec }
  forward(kernels: Kernels, inputs: I, outputs: O, attributes: A): void
  /** Names of inputs and outputs that each half of the backward reads (what recomputation must bring back). */
  readonly savedForInput: readonly string[]
  readonly savedForWeight: readonly string[]
  /** Gradients of the activations. */
  backwardInput(entry: TapeEntry<I, O, A>, gradients: Gradients): void
  /** Gradients of the parameters; absent for ops without parameters. */
  backwardWeight?(entry: TapeEntry<I, O, A>, gradients: Gradients): void
  /** Both halves at once, where that reads memory only once; used when gradients of activations and parameters are wanted. */
  backward?(entry: TapeEntry<I, O, A>, gradients: Gradients): void
  /**
   * Whether the backward can make the output `out` again, because it reads what it is made of: it does where the entry is not
   * alive. Gradients of weights that need a forgotten `out` wait for it.
   */
  remakesOut?(attributes: A): boolean
  /** Cheap to run again: dropped and recomputed under `selective` recomputation. */
  readonly isCheap: boolean
  cost(inputs: I, attributes: A): OpCost
}
