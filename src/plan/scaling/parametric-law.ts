// The parametric law of loss against parameters and tokens, published constants, and what follows from it: how to divide
// a budget, how many tokens a model should see, how far a run is from its optimum. Fitting is parametric-fit.ts.
import { ConfigError } from '../../core/errors.ts'

/**
 *     L(N, D) = E + A / N^alpha + B / D^beta
 * N parameters, D training tokens, L nats per token (Hoffmann et al. 2022, arXiv:2203.15556, equation 2).
 */
export interface ParametricLaw {
  readonly E: number
  readonly A: number
  readonly B: number
  readonly alpha: number
  readonly beta: number
}

export interface PublishedLaw extends ParametricLaw {
  readonly name: string
  readonly source: string
}

/** Hoffmann et al., approach 3; as in the paper's source, of which the printed 406.4, 410.7, 1.69, 0.34, 0.28 are rounded. */
export const HOFFMANN_2022: PublishedLaw = {
  name: 'Hoffmann et al. 2022, approach 3',
  source: 'arXiv:2203.15556, section 3.3',
  E: Math.exp(0.5267228),
  A: Math.exp(6.0073404),
  B: Math.exp(6.0179186),
  alpha: 0.33917084,
  beta: 0.2849083,
}

/** The fit of the 240 points taken from Hoffmann et al.'s figure 4. Standard errors: E 0.0257, A 124.5, B 1293, 0.0154, 0.0206. */
export const BESIROGLU_2024: PublishedLaw = {
  name: 'Besiroglu et al. 2024, replication',
  source: 'arXiv:2404.10102, table 1',
  E: 1.81686,
  A: 482.00572,
  B: 2085.4342,
  alpha: 0.34781,
  beta: 0.36585,
}

/** Fit on C4 with alpha = beta, the base of the law of repeated data (data-constrained.ts). */
export const MUENNIGHOFF_2023: PublishedLaw = {
  name: 'Muennighoff et al. 2023, C4',
  source: 'arXiv:2305.16264, appendix A',
  E: Math.exp(0.6254804),
  A: Math.exp(6.255414),
  B: Math.exp(7.3049974),
  alpha: 0.3526596,
  beta: 0.3526596,
}

/** FLOPs of training for each parameter and token: 2 forward, 4 backward. */
export const TRAINING_FLOPS = 6
/** FLOPs of a forward for each parameter and token. */
export const INFERENCE_FLOPS = 2

/** Nats per token that the law expects. @param parameters N @param tokens D */
export function lossOf(law: ParametricLaw, parameters: number, tokens: number): number {
  return law.E + law.A * parameters ** -law.alpha + law.B * tokens ** -law.beta
}

export interface Allocation {
  parameters: number
  tokens: number
  flops: number
  loss: number
}

/** Exponents of the optimum: N grows as C^a, D as C^b, a + b = 1. */
export function optimalExponents({ alpha, beta }: Pick<ParametricLaw, 'alpha' | 'beta'>): { a: number; b: number } {
  return { a: beta / (alpha + beta), b: alpha / (alpha + beta) }
}

/**
 * Parameters and tokens of the lowest loss for a budget C = 6 N D, in closed form:
 *     N = G (C / 6)^a,  D = (C / 6)^b / G,  G = (alpha A / (beta B))^(1 / (alpha + beta))
 */
export function computeOptimal(law: ParametricLaw, flops: number): Allocation {
  requirePositive('computeOptimal', { flops })
  const { a } = optimalExponents(law)
  const parameters = ratioConstant(law) * (flops / TRAINING_FLOPS) ** a
  const tokens = flops / (TRAINING_FLOPS * parameters)
  return { parameters, tokens, flops, loss: lossOf(law, parameters, tokens) }
}

/** Tokens at which a model of so many parameters is the compute-optimal one. */
export function optimalTokens(law: ParametricLaw, parameters: number): number {
  requirePositive('optimalTokens', { parameters })
  const { a } = optimalExponents(law)
  return (parameters / ratioConstant(law)) ** (1 / a) / parameters
}

/** Parameters for which so many tokens are compute-optimal. */
export function optimalParameters(law: ParametricLaw, tokens: number): number {
  requirePositive('optimalParameters', { tokens })
  const { b } = optimalExponents(law)
  return (tokens * ratioConstant(law)) ** (1 / b) / tokens
}

function ratioConstant({ A, B, alpha, beta }: ParametricLaw): number {
  return ((alpha * A) / (beta * B)) ** (1 / (alpha + beta))
}

/** How a run stands to the compute-optimal one. */
export interface Verdict {
  /** What the optimum goes by: a law's name, or the rule of 20 tokens a parameter. */
  approach: string
  tokensPerParameter: number
  optimalTokensPerParameter: number
  /** Tokens of the run for each token that would be optimal for its parameters: below 1 it is under-trained. */
  tokensRatio: number
  sentence: string
}

/** A ratio of tokens this near to 1 counts as optimal: the fits themselves differ by more. */
const OPTIMAL_WITHIN = 1.5

/** @param law  default the rule of thumb of 20 tokens a parameter (Hoffmann et al., tables 3 and A3) */
export function trainingVerdict(parameters: number, tokens: number, law?: PublishedLaw): Verdict {
  requirePositive('trainingVerdict', { parameters, tokens })
  const optimal = law === undefined ? 20 : optimalTokens(law, parameters) / parameters
  const tokensPerParameter = tokens / parameters
  const tokensRatio = tokensPerParameter / optimal
  const approach = law?.name ?? '20 tokens a parameter'
  const factor = (ratio: number): string => (ratio < 10 ? ratio.toFixed(1) : ratio.toFixed(0))
  let judged = 'near the compute-optimal amount'
  if (tokensRatio > OPTIMAL_WITHIN) judged = `trained ${factor(tokensRatio)} times past the compute-optimal amount`
  if (tokensRatio < 1 / OPTIMAL_WITHIN) judged = `under-trained by a factor of ${factor(1 / tokensRatio)}`
  return {
    approach,
    tokensPerParameter,
    optimalTokensPerParameter: optimal,
    tokensRatio,
    sentence: `${judged} (${approach})`,
  }
}

/** @throws ConfigError naming the first value that is not a positive number */
export function requirePositive(who: string, values: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(values)) {
    if (!(value > 0 && Number.isFinite(value))) {
      throw new ConfigError(`${who}: ${name} must be a positive number, got ${value}; give one such as 1e9`)
    }
  }
}
