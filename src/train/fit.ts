// A run that does not fit in memory: the cheapest change that would make it fit, found by planning each candidate for
// real. Changes nothing itself: the user decides.
import { ConfigError } from '../core/errors.ts'
import type { Recompute } from '../core/tape.ts'
import { formatBytes } from '../display/format.ts'

/** What may be changed to save memory. */
export interface FitShape {
  readonly seqLen: number
  /** Smaller: the same step in more micro-batches. */
  readonly microBatchSize: number
  readonly recompute: Recompute
  /** How many layers recompute, from the first; absent: all. */
  readonly recomputeLayers?: number | undefined
  /** False: training waits while a checkpoint is written, and no copy of the state is needed. */
  readonly asyncSave: boolean
}

/** What a run needs of a memory, and who has how much. */
export interface Need {
  /** `memory`, `memory of the card`. */
  readonly what: string
  readonly whose: string
  readonly neededBytes: number
  readonly parts: string
  readonly limitBytes: number
  /** The option that set the limit, if one did. */
  readonly limitedBy?: string
  /** What else would help. */
  readonly advice?: string
}

/** Shorter sequences than this are no advice. */
const LEAST_SEQ_LEN = 32
const RECOMPUTE: readonly Recompute[] = ['none', 'selective', 'full']

/**
 * The cheapest change in time: more and smaller micro-batches do the same arithmetic; waiting for checkpoints costs
 * seconds now and then; recomputation costs arithmetic in every step; shorter sequences change what is learned.
 * @param bytesOf  peak of the process for a candidate
 * @returns undefined if nothing of this is enough
 */
export function cheapestFit(
  shape: FitShape,
  batchTokens: number,
  limitBytes: number,
  bytesOf: (candidate: FitShape) => number,
): { shape: FitShape; bytes: number } | undefined {
  for (let seqLen = shape.seqLen; seqLen === shape.seqLen || seqLen >= LEAST_SEQ_LEN; seqLen = Math.floor(seqLen / 2)) {
    if (batchTokens % seqLen !== 0) continue
    const sizes = divisors(batchTokens / seqLen).filter((size) => size <= shape.microBatchSize)
    for (const policy of policiesFrom(shape)) {
      for (const asyncSave of shape.asyncSave ? [true, false] : [false]) {
        const candidate = (microBatchSize: number): FitShape => ({ seqLen, microBatchSize, ...policy, asyncSave })
        const falling = sizes.toReversed()
        // Where not even the smallest fits, only the largest may: a step of one micro-batch can need less for gradients.
        const tried = bytesOf(candidate(sizes[0]!)) > limitBytes ? falling.slice(0, 1) : falling
        for (const size of tried) {
          const bytes = bytesOf(candidate(size))
          if (bytes <= limitBytes) return { shape: candidate(size), bytes }
        }
      }
    }
  }
  return undefined
}

/** That of the shape, the same in all layers, and those that save more; the cheapest first. */
function policiesFrom({ recompute, recomputeLayers }: FitShape): Pick<FitShape, 'recompute' | 'recomputeLayers'>[] {
  const wider = RECOMPUTE.slice(RECOMPUTE.indexOf(recompute)).map((recompute) => ({ recompute }))
  return recomputeLayers === undefined ? wider : [{ recompute, recomputeLayers }, ...wider]
}

/** Rising. */
function divisors(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i + 1).filter((size) => count % size === 0)
}

/** What advice leaves free of a limit, where it can: the next process of this program takes up to 12 MiB more or less. */
function spareOf(limitBytes: number): number {
  return Math.max(0.01 * limitBytes, 16 * 2 ** 20)
}

/** @throws ConfigError that says what is needed, what is there, and the cheapest change that fits */
export function refuse(
  shape: FitShape,
  { batchTokens, layers }: { batchTokens: number; layers: number },
  memory: Need,
  bytesOf: (candidate: FitShape) => number,
): never {
  const { what, whose, neededBytes, parts, limitBytes, limitedBy } = memory
  const fitIn = (bytes: number) => cheapestFit(shape, batchTokens, bytes, bytesOf)
  const fit = fitIn(limitBytes - spareOf(limitBytes)) ?? fitIn(limitBytes)
  const advice =
    fit === undefined
      ? 'no micro-batch, recomputation or sequence length makes it fit: take a smaller model, as with a lower --depth'
      : `the cheapest change that fits is ${flags(shape, fit.shape, layers)} (${formatBytes(fit.bytes)})`
  const more = memory.advice === undefined ? '' : `, ${memory.advice}`
  throw new ConfigError(
    `pretrain: the run needs ${formatBytes(neededBytes)} of ${what} (${parts}), ${whose} can have ${formatBytes(limitBytes)}${limitedBy === undefined ? '' : ` (${limitedBy})`}; ${advice}${more}`,
  )
}

/** What is different, as options. @param layers  of the model: all of them, where the candidate names no number */
function flags(from: FitShape, to: FitShape, layers: number): string {
  const changes = [
    to.seqLen !== from.seqLen && `--seq-len ${to.seqLen}`,
    to.microBatchSize !== from.microBatchSize && `--micro-batch-size ${to.microBatchSize}`,
    to.recompute !== from.recompute && `--recompute ${to.recompute}`,
    to.asyncSave !== from.asyncSave && '--no-async-save',
    to.recomputeLayers !== from.recomputeLayers && `--recompute-layers ${to.recomputeLayers ?? layers}`,
  ]
  return changes.filter((change) => change !== false).join(' ')
}
