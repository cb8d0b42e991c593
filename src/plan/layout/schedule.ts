// Pipeline schedules: in which order each rank runs the forwards and backwards of its micro-batches. GPipe
// (arXiv:1811.06965), 1F1B and interleaved (arXiv:2104.04473), zero-bubble (arXiv:2401.10241, the H1 and H2 schedules).
import type { Schedule } from './layout.ts'

export type Kind = 'forward' | 'backward' | 'weight'

/** One piece of work of a rank. `chunk` counts the model's chunks from its start: rank = chunk % ranks. */
export interface Work {
  readonly kind: Kind
  readonly microBatch: number
  readonly chunk: number
}

export interface PipelineShape {
  readonly ranks: number
  readonly microBatches: number
  /** Chunks on one rank. */
  readonly chunks: number
}

/** Orders of all ranks. A backward is whole, unless the schedule is zero-bubble, which `zeroBubbleLimit` serves. */
export function workOrder(schedule: Schedule, shape: PipelineShape): Work[][] {
  return Array.from({ length: shape.ranks }, (_, rank) => rankOrder(schedule, shape, rank))
}

function rankOrder(schedule: Schedule, shape: PipelineShape, rank: number): Work[] {
  if (schedule === 'gpipe') return gpipe(shape, rank)
  return oneForwardOneBackward(shape, rank)
}

function gpipe({ ranks, microBatches, chunks }: PipelineShape, rank: number): Work[] {
  const order: Work[] = []
  for (let part = 0; part < chunks; part++) {
    for (let microBatch = 0; microBatch < microBatches; microBatch++) {
      order.push({ kind: 'forward', microBatch, chunk: part * ranks + rank })
    }
  }
  for (let part = chunks - 1; part >= 0; part--) {
    for (let microBatch = 0; microBatch < microBatches; microBatch++) {
      order.push({ kind: 'backward', microBatch, chunk: part * ranks + rank })
    }
  }
  return order
}

/** Forwards until the first backward can come, then one of each, then the backwards that are left. */
function oneForwardOneBackward({ ranks, microBatches, chunks }: PipelineShape, rank: number): Work[] {
  const total = microBatches * chunks
  const warmUp = chunks === 1 ? ranks - rank - 1 : 2 * (ranks - rank - 1) + (chunks - 1) * ranks
  const ahead = Math.min(total, warmUp)
  const order: Work[] = []
  // Micro-batches go through a rank's chunks in groups of as many as there are ranks.
  const work = (kind: Kind, index: number): Work => {
    const group = Math.floor(index / (ranks * chunks))
    const part = Math.floor((index % (ranks * chunks)) / ranks)
    const microBatch = group * ranks + (index % ranks)
    const chunk = (kind === 'forward' ? part : chunks - 1 - part) * ranks + rank
    return chunks === 1 ? { kind, microBatch: index, chunk: rank } : { kind, microBatch, chunk }
  }
  for (let index = 0; index < ahead; index++) order.push(work('forward', index))
  for (let index = ahead; index < total; index++) {
    order.push(work('forward', index), work('backward', index - ahead))
  }
  for (let index = total - ahead; index < total; index++) order.push(work('backward', index))
  return order
}

/** Micro-batches whose activations a rank may hold: H1 as many as 1F1B, H2 twice as many, which fills the bubble. */
export function zeroBubbleLimit(variant: 'h1' | 'h2', ranks: number, rank: number): number {
  return variant === 'h1' ? ranks - rank : 2 * (ranks - rank) - 1
}

/**
 * Time that a rank waits in a step over the time that it works, by the formulas of the papers, with equal ranks:
 * (p - 1) / m, for v chunks (p - 1) / (v m), zero-bubble H1 (p - 1) (F + B - W) / m (F + B + W), H2 with B - 2 W there.
 * @param times  of one micro-batch on one rank: forward, gradients of inputs, gradients of weights
 */
export function bubbleFormula(
  schedule: Schedule | 'zero-bubble-h2',
  { ranks, microBatches, chunks }: PipelineShape,
  times: { forward: number; input: number; weight: number } = { forward: 1, input: 1, weight: 1 },
): number {
  const { forward, input, weight } = times
  const plain = (ranks - 1) / microBatches
  if (schedule === 'zero-bubble') return (plain * (forward + input - weight)) / (forward + input + weight)
  if (schedule === 'zero-bubble-h2') return (plain * (forward + input - 2 * weight)) / (forward + input + weight)
  return plain / chunks
}
