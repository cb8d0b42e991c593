// Loss when text runs out and is read again: repeated tokens are worth less and less, and so are parameters beyond what
// the unique text can use (Muennighoff et al. 2023, arXiv:2305.16264, equations 5 to 7 and 16).
import { goldenSection } from './inference-aware.ts'
import {
  type Allocation,
  computeOptimal,
  lossOf,
  MUENNIGHOFF_2023,
  optimalParameters,
  type ParametricLaw,
  requirePositive,
  TRAINING_FLOPS,
} from './parametric-law.ts'

export interface RepetitionLaw {
  readonly base: ParametricLaw
  /** Repetitions after which a token read again has lost 1 - 1/e of its worth. */
  readonly tokenDecay: number
  /** The same of parameters beyond the optimum of the unique text. */
  readonly parameterDecay: number
}

export const MUENNIGHOFF_REPETITION: RepetitionLaw = {
  base: MUENNIGHOFF_2023,
  tokenDecay: 15.387756,
  parameterDecay: 5.309743,
}

/**
 *     D' = U (1 + R* (1 - exp(-R / R*))),  R = D / U - 1
 * The number of unique tokens that are worth as much as D tokens of which U are unique.
 */
export function effectiveTokens(
  tokens: number,
  uniqueTokens: number,
  decay = MUENNIGHOFF_REPETITION.tokenDecay,
): number {
  requirePositive('effectiveTokens', { tokens, uniqueTokens, decay })
  return diminish(Math.min(tokens, uniqueTokens), tokens, decay)
}

/** @returns nats per token after D tokens of which at most `uniqueTokens` are different */
export function repeatedLoss(
  parameters: number,
  tokens: number,
  uniqueTokens: number,
  law: RepetitionLaw = MUENNIGHOFF_REPETITION,
): number {
  requirePositive('repeatedLoss', { parameters, tokens, uniqueTokens })
  const unique = Math.min(tokens, uniqueTokens)
  const usable = Math.min(parameters, optimalParameters(law.base, unique))
  return lossOf(law.base, diminish(usable, parameters, law.parameterDecay), diminish(unique, tokens, law.tokenDecay))
}

function diminish(base: number, all: number, decay: number): number {
  return base * (1 + decay * (1 - Math.exp(-(all / base - 1) / decay)))
}

export interface RepeatedAllocation extends Allocation {
  epochs: number
}

/** Parameters and tokens of the lowest loss for a budget C = 6 N D when only `uniqueTokens` are to be had. */
export function dataConstrainedOptimal(
  flops: number,
  uniqueTokens: number,
  law: RepetitionLaw = MUENNIGHOFF_REPETITION,
): RepeatedAllocation {
  requirePositive('dataConstrainedOptimal', { flops, uniqueTokens })
  const free = computeOptimal(law.base, flops)
  if (free.tokens <= uniqueTokens) return { ...free, epochs: free.tokens / uniqueTokens }
  const product = flops / TRAINING_FLOPS
  const lossAt = (logTokens: number): number =>
    repeatedLoss(product / Math.exp(logTokens), Math.exp(logTokens), uniqueTokens, law)
  const tokens = Math.exp(goldenSection(lossAt, Math.log(uniqueTokens), Math.log(free.tokens * 100)))
  const parameters = product / tokens
  return {
    parameters,
    tokens,
    flops,
    loss: repeatedLoss(parameters, tokens, uniqueTokens, law),
    epochs: tokens / uniqueTokens,
  }
}
