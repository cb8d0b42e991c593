// What every pipeline rank does when: runs a schedule's order on the clock. A forward waits for the chunk before it, a
// backward for the chunk after it; a transfer takes time on the way, and on its sender where programs wait for it.
import { invariant } from '../../core/errors.ts'
import type { Schedule } from './layout.ts'
import { type Kind, type PipelineShape, type Work, workOrder, zeroBubbleLimit } from './schedule.ts'

/** Seconds of one micro-batch in one chunk of the model. */
export interface ChunkTime {
  readonly forward: number
  /** Gradients of inputs; with those of weights, unless the schedule parts them. */
  readonly backward: number
  /** Gradients of weights, where the schedule parts them from those of inputs. */
  readonly weight: number
}

export interface Event extends Work {
  readonly start: number
  readonly end: number
}

export interface Timeline {
  /** Events of each rank, in order. */
  readonly ranks: readonly (readonly Event[])[]
  /** Seconds from the first start to the last end; with zero-bubble, of the rank that takes longest by itself. */
  readonly seconds: number
  /** Waiting over working, of the rank that works most. */
  readonly bubble: number
}

export interface PipelineRun {
  readonly schedule: Schedule
  readonly shape: PipelineShape
  /** By chunk of the model, in its order. */
  readonly times: readonly ChunkTime[]
  /** Seconds of a transfer to the next chunk. */
  readonly transfer: number
  /** Whether ranks wait for their transfers (a blocking program), or transfers run beside the work. */
  readonly isBlocking: boolean
  readonly variant?: 'h1' | 'h2'
}

export function simulate(run: PipelineRun): Timeline {
  return run.schedule === 'zero-bubble' ? simulateZeroBubble(run) : simulateOrder(run)
}

/** Ends of works by (kind, chunk, micro-batch), NaN before they are known. */
class Ends {
  private readonly ends: Float64Array
  private readonly microBatches: number

  constructor(chunks: number, microBatches: number) {
    this.microBatches = microBatches
    this.ends = new Float64Array(2 * chunks * microBatches).fill(Number.NaN)
  }

  private at(kind: Kind, chunk: number, microBatch: number): number {
    return (2 * chunk + (kind === 'forward' ? 0 : 1)) * this.microBatches + microBatch
  }

  set({ kind, chunk, microBatch }: Work, end: number): void {
    this.ends[this.at(kind, chunk, microBatch)] = end
  }

  get(kind: Kind, chunk: number, microBatch: number): number {
    return this.ends[this.at(kind, chunk, microBatch)]!
  }
}

/** When the inputs of a work are there: NaN if not known yet. */
function readyAt(ends: Ends, work: Work, chunks: number, transfer: number): number {
  const { kind, chunk, microBatch } = work
  if (kind === 'forward') return chunk === 0 ? 0 : ends.get('forward', chunk - 1, microBatch) + transfer
  const own = ends.get('forward', chunk, microBatch)
  return chunk === chunks - 1 ? own : Math.max(own, ends.get('backward', chunk + 1, microBatch) + transfer)
}

function simulateOrder({ schedule, shape, times, transfer, isBlocking }: PipelineRun): Timeline {
  const orders = workOrder(schedule, shape)
  const chunks = times.length
  const ends = new Ends(chunks, shape.microBatches)
  const ranks: Event[][] = orders.map(() => [])
  const clock = new Float64Array(shape.ranks)
  const next = new Int32Array(shape.ranks)
  let left = orders.reduce((count, order) => count + order.length, 0)
  while (left > 0) {
    const before = left
    for (let rank = 0; rank < shape.ranks; rank++) {
      const order = orders[rank]!
      while (next[rank]! < order.length) {
        const work = order[next[rank]!]!
        const ready = readyAt(ends, work, chunks, transfer)
        if (Number.isNaN(ready)) break
        const time = times[work.chunk]!
        const start = Math.max(clock[rank]!, ready)
        const end = start + (work.kind === 'forward' ? time.forward : time.backward + time.weight)
        ends.set(work, end)
        ranks[rank]!.push({ ...work, start, end })
        const sends = work.kind === 'forward' ? work.chunk < chunks - 1 : work.chunk > 0
        clock[rank] = isBlocking && sends ? end + transfer : end
        next[rank]!++
        left--
      }
    }
    invariant(left < before, `the ${schedule} schedule waits for itself`)
  }
  const seconds = Math.max(...clock)
  return { ranks, seconds, bubble: bubbleOf(ranks, seconds) }
}

function bubbleOf(ranks: readonly (readonly Event[])[], seconds: number): number {
  const busy = ranks.map((events) => events.reduce((total, { start, end }) => total + end - start, 0))
  const most = Math.max(...busy)
  return seconds / most - 1
}

/**
 * Zero-bubble: a rank takes a backward when one is there, else a forward while it may hold one more micro-batch, else
 * gradients of weights that are due. Steps are taken apart by the optimizer's check after the fact (section 4 of the
 * paper), so that a step is as long as its longest rank.
 */
function simulateZeroBubble({ shape, times, transfer, isBlocking, variant = 'h1' }: PipelineRun): Timeline {
  const { ranks: count, microBatches } = shape
  const ends = new Ends(count, microBatches)
  const ranks: Event[][] = Array.from({ length: count }, () => [])
  const state = Array.from({ length: count }, () => ({ clock: 0, forwards: 0, backwards: 0, weights: 0 }))
  const work = (rank: number): { work: Work; start: number } | undefined => {
    const { clock, forwards, backwards, weights } = state[rank]!
    const limit = zeroBubbleLimit(variant, count, rank)
    const candidates: Work[] = []
    if (backwards < forwards) candidates.push({ kind: 'backward', microBatch: backwards, chunk: rank })
    if (forwards < microBatches && forwards - backwards < limit) {
      candidates.push({ kind: 'forward', microBatch: forwards, chunk: rank })
    }
    if (weights < backwards) candidates.push({ kind: 'weight', microBatch: weights, chunk: rank })
    let best: { work: Work; start: number } | undefined
    for (const candidate of candidates) {
      const ready = candidate.kind === 'weight' ? clock : readyAt(ends, candidate, count, transfer)
      if (Number.isNaN(ready)) continue
      const start = Math.max(clock, ready)
      // Candidates come in the order of their worth: a later one must start earlier.
      if (best === undefined || start < best.start - 1e-12) best = { work: candidate, start }
    }
    return best
  }
  const total = 3 * microBatches * count
  for (let done = 0; done < total; done++) {
    // The rank that can start first goes first, so that no earlier event is found later.
    let chosen = -1
    let first: { work: Work; start: number } | undefined
    for (let rank = count - 1; rank >= 0; rank--) {
      const found = work(rank)
      if (found !== undefined && (first === undefined || found.start < first.start)) [chosen, first] = [rank, found]
    }
    invariant(first !== undefined, 'the zero-bubble schedule waits for itself')
    const time = times[chosen]!
    const end = first.start + time[first.work.kind]
    if (first.work.kind !== 'weight') ends.set(first.work, end)
    ranks[chosen]!.push({ ...first.work, start: first.start, end })
    const mine = state[chosen]!
    const sends = first.work.kind === 'forward' ? chosen < count - 1 : first.work.kind === 'backward' && chosen > 0
    mine.clock = isBlocking && sends ? end + transfer : end
    if (first.work.kind === 'forward') mine.forwards++
    else if (first.work.kind === 'backward') mine.backwards++
    else mine.weights++
  }
  const spans = ranks.map((events) => events.at(-1)!.end - events[0]!.start)
  const seconds = Math.max(...spans)
  return { ranks, seconds, bubble: bubbleOf(ranks, seconds) }
}
