// Learning rate and batch of a sweep's runs: looked for at three anchors (a small model on little text, on more of
// it, a larger model on little text) and carried to other sizes and horizons by power laws. Between batches the best
// rate goes as the root of the batch (Malladi et al. 2022, arXiv:2205.10287), so that one can be sought at a time.

import { solve } from '../scaling/statistics.ts'
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
/**
 * Searches at two anchors tell an exponent badly: what they find is combined with what was found elsewhere, each weighted by
 * its uncertainty. The rate falls with size between N^-0.71 (Li et al. 2025, AdamW) and N^-0.25 (Yang et al. 2022, hidden
 * matrices), with tokens at one batch as D^-0.32 (Bjorck et al. 2024, arXiv:2409.19913), and the batch grows as D^0.571 (Li et al.).
 */
const PRIORS = {
  size: { mean: -0.45, spread: 0.15 },
  tokens: { mean: -0.32, spread: 0.1 },
  batch: { mean: FIRST.batchExponent, spread: 0.15 },
} as const
/**
 * Octaves by which chance moves the best of three trials an octave apart: 0.25 % of scatter over the curvature, which is half
 * a per cent over the square of the reach in which it is lost.
 */
const SHIFT_PER_REACH = 0.35
/** Of a search without a parabola; and of one that is too good to be true. */
const [UNKNOWN_SHIFT, LEAST_SHIFT] = [1, 0.1]

/** value = sum of terms x coefficients, known to `shift`. */
interface Finding {
  readonly terms: readonly number[]
  /** log2 */
  readonly value: number
  readonly shift: number
}

function findingOf({ x, flat }: Valley, terms: readonly number[]): Finding {
  const shift = flat === undefined ? UNKNOWN_SHIFT : Math.min(UNKNOWN_SHIFT, SHIFT_PER_REACH * (flat.high - x) ** 2)
  return { terms, value: x, shift: Math.max(shift, LEAST_SHIFT) }
}

/** Least squares of findings and priors (one for each coefficient but the first), each weighted by its uncertainty. */
function combine(
  findings: readonly Finding[],
  priors: readonly { readonly mean: number; readonly spread: number }[],
): number[] {
  const size = priors.length + 1
  const known = priors.map(({ mean, spread }, i) => ({
    terms: Array.from({ length: size }, (_, k) => (k === i + 1 ? 1 : 0)),
    value: mean,
    shift: spread,
  }))
  const rows = Array.from({ length: size }, () => new Array<number>(size + 1).fill(0))
  for (const { terms, value, shift } of [...findings, ...known]) {
    for (let i = 0; i < size; i++) {
      for (let k = 0; k < size; k++) rows[i]![k]! += (terms[i]! * terms[k]!) / shift ** 2
      rows[i]![size]! += (terms[i]! * value) / shift ** 2
    }
  }
  return solve(rows)!
}

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

  /** The best batch, when the rate follows it by its root. */
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
    return valley
  }
  const searchLr = async (anchor: Anchor, batchTokens: number, start: number) => {
    const specsAt = (x: readonly number[]): RunSpec[] =>
      x.map((log) => runSpec('lr', anchor.shape, { tokens: anchor.tokens, batchTokens, lr: 2 ** log }, setting))
    const valley = await searchValley((x) => losses(specsAt(x)), Math.log2(start), LR_RANGE)
    if (valley === undefined) return undefined
    searches.push({ what: 'lr', parameters: parametersOf(anchor), tokens: anchor.tokens, batchTokens, valley })
    return valley
  }

  const { small, long, large } = anchors
  const guess = FIRST.lr * (parametersOf(small) / FIRST.parameters) ** FIRST.sizeExponent
  const firstBatch = powerOfTwoRows(FIRST.batchScale * small.tokens ** FIRST.batchExponent, seqLen)
  const guessAt = (batchTokens: number): number => guess * Math.sqrt(batchTokens / FIRST.batchTokens)
  const batchSmall = await searchBatch(small, firstBatch, guessAt)
  if (batchSmall === undefined) return undefined
  const batch0 = wholeRows(2 ** batchSmall.x, seqLen)
  const tokensOctaves = Math.log2(long.tokens / small.tokens)
  const searchSmallAndLong = async () => {
    const lrSmall = await searchLr(small, batch0, guessAt(batch0))
    if (lrSmall === undefined) return undefined
    const lrAt = (batchTokens: number): number => 2 ** lrSmall.x * Math.sqrt(batchTokens / batch0)
    const start = powerOfTwoRows(batch0 * 2 ** (FIRST.batchExponent * tokensOctaves), seqLen)
    const batchLong = await searchBatch(long, start, lrAt)
    if (batchLong === undefined) return undefined
    const batch = wholeRows(2 ** batchLong.x, seqLen)
    const lrLong = await searchLr(long, batch, lrAt(batch))
    return lrLong === undefined ? undefined : { lrSmall, batchLong, lrLong, batch }
  }
  const [nSmall, nLarge] = [parametersOf(small), parametersOf(large)]
  const [found, lrLarge] = await Promise.all([
    searchSmallAndLong(),
    searchLr(large, batch0, guessAt(batch0) * (nLarge / nSmall) ** FIRST.sizeExponent),
  ])
  if (found === undefined || lrLarge === undefined) return undefined
  const [logBatch, batchExponent] = combine(
    [findingOf(batchSmall, [1, 0]), findingOf(found.batchLong, [1, tokensOctaves])],
    [PRIORS.batch],
  ) as [number, number]
  const sizeOctaves = Math.log2(nLarge / nSmall)
  const [logLr, sizeExponent, tokensExponent] = combine(
    [
      lrFinding(found.lrSmall, batch0, logBatch, [1, 0, 0]),
      lrFinding(found.lrLong, found.batch, logBatch, [1, 0, tokensOctaves]),
      lrFinding(lrLarge, batch0, logBatch, [1, sizeOctaves, Math.log2(large.tokens / small.tokens)]),
    ],
    [PRIORS.size, PRIORS.tokens],
  ) as [number, number, number]
  const law = {
    parameters: nSmall,
    tokens: small.tokens,
    lr: 2 ** logLr,
    batchTokens: 2 ** logBatch,
    sizeExponent,
    tokensExponent,
    batchExponent,
  }
  // Searches end in any order.
  searches.sort((a, b) => a.parameters - b.parameters || a.tokens - b.tokens || a.what.localeCompare(b.what))
  return { law, searches }
}

/** A rate found with some batch, as it would be with the law's at the small anchor: it goes as the root. */
function lrFinding(valley: Valley, batchTokens: number, logBatch: number, terms: readonly number[]): Finding {
  const finding = findingOf(valley, terms)
  return { ...finding, value: finding.value - 0.5 * (Math.log2(batchTokens) - logBatch) }
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
