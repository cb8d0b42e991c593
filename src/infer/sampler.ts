// Choosing the next token from a row of logits. The filters and their order are those of Hugging Face transformers:
// repetition penalty, temperature, top-k, top-p, min-p; then one draw from what is left. Randomness is counter-based:
// draw n of a seed is the same number whatever happened before.
import type { RandomKey } from '../core/kernels.ts'
import { randomKey, randomUniform } from '../core/random.ts'

export interface SamplingConfig {
  /** Divides the logits; 0 takes the most likely token (greedy). */
  temperature: number
  /** Keep the k most likely tokens; 0 keeps all. */
  topK: number
  /** Keep the most likely tokens that together have at least this probability; 1 keeps all. */
  topP: number
  /** Keep tokens at least this fraction as likely as the most likely one; 0 keeps all. */
  minP: number
  /** Logits of tokens seen so far are divided (if positive) or multiplied (if negative) by this; 1 changes nothing. */
  repetitionPenalty: number
  seed: number
}

export const GREEDY: SamplingConfig = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 0,
}

/** A token that may come next and its probability after all filters. */
export interface Candidate {
  readonly id: number
  readonly probability: number
}

export class Sampler {
  readonly config: SamplingConfig
  readonly #key: RandomKey
  #draws = 0

  constructor(config: SamplingConfig) {
    this.config = config
    this.#key = randomKey(config.seed, 'sampling')
  }

  /**
   * Id of the next token.
   * @param logits  [V]; changed by the repetition penalty
   * @param seen    ids of prompt and text so far
   */
  next(logits: Float32Array, seen: readonly number[] = []): number {
    penalizeRepetition(logits, seen, this.config.repetitionPenalty)
    if (this.config.temperature === 0) return argmax(logits)
    const candidates = distribution(logits, { ...this.config, repetitionPenalty: 1 })
    let left = randomUniform(this.#key, this.#draws++)
    for (const { id, probability } of candidates) {
      left -= probability
      if (left < 0) return id
    }
    return candidates[candidates.length - 1]!.id
  }
}

/** The first index of the largest value. */
export function argmax(logits: Float32Array): number {
  let best = 0
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i
  return best
}

/** Keskar et al. 2019, arXiv:1909.05858 (CTRL). */
function penalizeRepetition(logits: Float32Array, seen: readonly number[], penalty: number): void {
  if (penalty === 1) return
  for (const id of new Set(seen)) {
    const logit = logits[id]!
    logits[id] = logit > 0 ? logit / penalty : logit * penalty
  }
}

/**
 * Probabilities after the filters, most likely first; they sum to 1. With temperature 0, all on the most likely token.
 * @see Holtzman et al. 2020, arXiv:1904.09751 (top-p); Nguyen et al. 2024, arXiv:2407.01082 (min-p)
 */
export function distribution(logits: Float32Array, config: SamplingConfig, seen: readonly number[] = []): Candidate[] {
  const row = config.repetitionPenalty === 1 ? logits : logits.slice()
  penalizeRepetition(row, seen, config.repetitionPenalty)
  const { temperature, topK, topP, minP } = config
  if (temperature === 0) return [{ id: argmax(row), probability: 1 }]
  const ids = topK > 0 && topK < row.length ? largest(row, topK) : Uint32Array.from(row, (_, i) => i)
  ids.sort((a, b) => row[b]! - row[a]! || a - b)
  const top = row[ids[0]!]!
  const weights = Float64Array.from(ids, (id) => Math.exp((row[id]! - top) / temperature))
  let kept = weights.length
  if (topP < 1) kept = countForMass(weights, topP)
  if (minP > 0) {
    // Relative to the most likely token, whose weight is 1.
    let count = 1
    while (count < kept && weights[count]! >= minP) count++
    kept = count
  }
  let total = 0
  for (let i = 0; i < kept; i++) total += weights[i]!
  return Array.from({ length: kept }, (_, i) => ({ id: ids[i]!, probability: weights[i]! / total }))
}

/** How many of the descending weights reach `mass` of their sum; at least one. */
function countForMass(weights: Float64Array, mass: number): number {
  const total = weights.reduce((sum, w) => sum + w, 0)
  let sum = 0
  for (let i = 0; i < weights.length; i++) {
    sum += weights[i]!
    if (sum >= mass * total) return i + 1
  }
  return weights.length
}

/** Indices of the k largest values (ties by the smaller index), in no order: one pass with a small heap. */
function largest(row: Float32Array, k: number): Uint32Array {
  const heap = new Uint32Array(k)
  const isLess = (a: number, b: number): boolean => row[a]! < row[b]! || (row[a] === row[b] && a > b)
  const siftDown = (start: number): void => {
    let i = start
    const item = heap[i]!
    for (let child = 2 * i + 1; child < k; child = 2 * i + 1) {
      if (child + 1 < k && isLess(heap[child + 1]!, heap[child]!)) child++
      if (!isLess(heap[child]!, item)) break
      heap[i] = heap[child]!
      i = child
    }
    heap[i] = item
  }
  for (let i = 0; i < k; i++) heap[i] = i
  for (let i = (k >> 1) - 1; i >= 0; i--) siftDown(i)
  for (let i = k; i < row.length; i++) {
    if (!isLess(heap[0]!, i)) continue
    heap[0] = i
    siftDown(0)
  }
  return heap
}
