// The time of a phase (a forward, a backward) of a piece of the model on one rank, kept by what it is spent on.

export interface Phase {
  /** Seconds of matrix products and fused attention. */
  readonly products: number
  /** Seconds of kernels that only move data. */
  readonly memory: number
  /** Seconds of tensor-, context- and expert-parallel communication that nothing hides. */
  readonly communication: number
  /** Seconds of what ZeRO gathers and scatters in every micro-batch, as far as nothing hides it. */
  readonly data: number
}

export const NOTHING: Phase = { products: 0, memory: 0, communication: 0, data: 0 }

export function sum(...phases: readonly Phase[]): Phase {
  return phases.reduce(
    (total, { products, memory, communication, data }) => ({
      products: total.products + products,
      memory: total.memory + memory,
      communication: total.communication + communication,
      data: total.data + data,
    }),
    NOTHING,
  )
}

export function times({ products, memory, communication, data }: Phase, factor: number): Phase {
  return {
    products: products * factor,
    memory: memory * factor,
    communication: communication * factor,
    data: data * factor,
  }
}

export function secondsOf({ products, memory, communication, data }: Phase): number {
  return products + memory + communication + data
}
