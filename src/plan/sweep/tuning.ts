// Learning rate and batch of a sweep's runs: looked for at three anchors (a small model on little text, on four times as
// much, a larger model on little text) and carried to other sizes and horizons by power laws. Between batches the best
// rate goes as the root of the batch (Malladi et al. 2022, arXiv:2205.10287), so that one can be sought at a time.

import { searchValley, type Valley } from './bracket.ts'
import type { RunPool } from './execute.ts'
import { type RunSpec, runSpec, type SweepSetting } from './run-spec.ts'
import { type ModelShape, shapeParameters } from './shapes.ts'

export interface Anchor {
  readonly shape: ModelShape
  readonly tokens: number
}

/**
 *     batch = batch0 (D / D0)^s,   lr = lr0 (N / N0)^p (D / D0)^q (batch / batch0)^(1/2)
 * about the small, short anchor (N0, D0).
 */
export interface TuningLaw {
  readonly parameters: number
  readonly tokens: number
  readonly lr: number
  readonly batchTokens: number
  readonly sizeExponent: number
  readonly tokensExponent: number
  readonly batchExponent: number
}

export interface Tuning {
  readonly law: TuningLaw
  /** What was tried where, for the report. */
  readonly searches: readonly TuningSearch[]
}

export interface TuningSearch {
  readonly what: 'lr' | 'batch'
  readonly parameters: number
  readonly tokens: number
  /** Of a search for the rate. */
  readonly batchTokens: number
  readonly valley: Valley
}

/** Where searches start: what models of 1e5 parameters took; the batch grows as in Li et al. 2025 (arXiv:2503.04715). */
const FIRST = {
  lr: 0.02,
  parameters: 1e5,
  batchTokens: 1024,
  sizeExponent: -0.35,
  batchScale: 0.15,
  batchExponent: 0.571,
}
const LR_RANGE = { low: Math.log2(1e-5), high: Math.log2(0.3) }
/** A few runs tell exponents badly: no further than what has been found elsewhere. */
const EXPONENTS = { size: [-0.8, 0.1], tokens: [-0.6, 0.3], batch: [0, 1] } as const

const clamp = (value: number, [low, high]: readonly [number, number]): number => Math.min(high, Math.max(low, value))

/** @returns undefined when the sweep was told to stop */
export async function tune(
  pool: Pick<RunPool, 'runAll'>,
  setting: SweepSetting,
  anchors: { small: Anchor; long: Anchor; large: Anchor },
): Promise<Tuning | undefined> {
  const { seqLen, vocabSize } = setting
  const searches: TuningSearch[] = []
  const parametersOf = (anchor: Anchor): number => shapeParameters(anchor.shape, vocabSize)
  const losses = async (specs: readonly RunSpec[]): Promise<number[] | undefined> =>
    (await pool.runAll(specs))?.map((result) => result.loss)

  /** The largest batch that loses next to nothing, when the rate follows it by its root. */
  const searchBatch = async (anchor: Anchor, start: number, lrAt: (batchTokens: number) => number) => {
    const range = { low: Math.log2(seqLen), high: Math.log2(anchor.tokens / 50) }
    const specsAt = (x: readonly number[]): RunSpec[] =>
      x.map((log) => {
        const batchTokens = wholeRows(2 ** log, seqLen)
        return runSpec('batch', anchor.shape, { tokens: anchor.tokens, batchTokens, lr: lrAt(batchTokens) }, setting)
      })
    const first = Math.log2(wholeRows(start, seqLen))
    const valley = await searchValley((x) => losses(specsAt(x)), first, range)
    if (valley === undefined) return undefined
    const search = { what: 'batch', parameters: parametersOf(anchor), tokens: anchor.tokens, valley } as const
    searches.push({ ...search, batchTokens: 2 ** valley.x })
    // Larger batches run faster: half way to where half a per cent is lost costs an eighth of one.
    const chosen = valley.flat === undefined ? valley.x : (valley.x + valley.flat.high) / 2
    return wholeRows(2 ** Math.min(chosen, range.high), seqLen)
  }
  const searchLr = async (anchor: Anchor, batchTokens: number, start: number) => {
    const specsAt = (x: readonly number[]): RunSpec[] =>
      x.map((log) => runSpec('lr', anchor.shape, { tokens: anchor.tokens, batchTokens, lr: 2 ** log }, setting))
    const valley = await searchValley((x) => losses(specsAt(x)), Math.log2(start), LR_RANGE)
    if (valley === undefined) return undefined
    searches.push({ what: 'lr', parameters: parametersOf(anchor), tokens: anchor.tokens, batchTokens, valley })
    return 2 ** valley.x
  }

  const { small, long, large } = anchors
  const n0 = parametersOf(small)
  const firstBatch = powerOfTwoRows(FIRST.batchScale * small.tokens ** FIRST.batchExponent, seqLen)
  const guess = FIRST.lr * (n0 / FIRST.parameters) ** FIRST.sizeExponent
  const guessAt = (batchTokens: number): number => guess * Math.sqrt(batchTokens / FIRST.batchTokens)
  const batch0 = await searchBatch(small, firstBatch, guessAt)
  if (batch0 === undefined) return undefined
  const searchSmallAndLong = async () => {
    const lr0 = await searchLr(small, batch0, guessAt(batch0))
    if (lr0 === undefined) return undefined
    const lrAt = (batchTokens: number): number => lr0 * Math.sqrt(batchTokens / batch0)
    const ratio = long.tokens / small.tokens
    const batch = await searchBatch(long, powerOfTwoRows(batch0 * ratio ** FIRST.batchExponent, seqLen), lrAt)
    const lr = batch === undefined ? undefined : await searchLr(long, batch, lrAt(batch))
    return batch === undefined || lr === undefined ? undefined : { lr0, batch, lr }
  }
  const nLarge = parametersOf(large)
  const [found, lrLarge] = await Promise.all([
    searchSmallAndLong(),
    searchLr(large, batch0, guessAt(batch0) * (nLarge / n0) ** FIRST.sizeExponent),
  ])
  if (found === undefined || lrLarge === undefined) return undefined
  const { lr0, ...ofLong } = found
  const tokensRatio = long.tokens / small.tokens
  const batchExponent = clamp(Math.log(ofLong.batch / batch0) / Math.log(tokensRatio), EXPONENTS.batch)
  const lrOfLong = ofLong.lr / Math.sqrt(ofLong.batch / batch0)
  const tokensExponent = clamp(Math.log(lrOfLong / lr0) / Math.log(tokensRatio), EXPONENTS.tokens)
  const lrOfLarge = lrLarge / (large.tokens / small.tokens) ** tokensExponent
  const sizeExponent = clamp(Math.log(lrOfLarge / lr0) / Math.log(nLarge / n0), EXPONENTS.size)
  const law = {
    parameters: n0,
    tokens: small.tokens,
    lr: lr0,
    batchTokens: batch0,
    sizeExponent,
    tokensExponent,
    batchExponent,
  }
  // Searches end in any order.
  searches.sort((a, b) => a.parameters - b.parameters || a.tokens - b.tokens || a.what.localeCompare(b.what))
  return { law, searches }
}

/** Batch and rate of a run by the law. */
export function tunedFor(
  law: TuningLaw,
  parameters: number,
  tokens: number,
  seqLen: number,
): { batchTokens: number; lr: number } {
  const growth = tokens / law.tokens
  const batchTokens = wholeRows(law.batchTokens * growth ** law.batchExponent, seqLen)
  const ofSize = (parameters / law.parameters) ** law.sizeExponent
  const lr = law.lr * ofSize * growth ** law.tokensExponent * Math.sqrt(batchTokens / law.batchTokens)
  return { batchTokens, lr }
}

/** A multiple of the sequence length; large batches in multiples of 16 rows, which divide into micro-batches well. */
export function wholeRows(tokens: number, seqLen: number): number {
  const rows = Math.max(1, tokens / seqLen)
  return seqLen * (rows < 24 ? Math.round(rows) : 16 * Math.round(rows / 16))
}

function powerOfTwoRows(tokens: number, seqLen: number): number {
  return seqLen * 2 ** Math.max(0, Math.floor(Math.log2(tokens / seqLen)))
}
