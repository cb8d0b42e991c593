// The cheapest model of a given loss when its use is paid for too: a smaller model, trained longer, answers cheaper
// (Sardana et al. 2024, arXiv:2401.00448).
import { ConfigError } from '../../core/errors.ts'
import { INFERENCE_FLOPS, lossOf, type ParametricLaw, requirePositive, TRAINING_FLOPS } from './parametric-law.ts'

export interface LifetimeOptimum {
  parameters: number
  tokens: number
  loss: number
  trainingFlops: number
  inferenceFlops: number
  totalFlops: number
}

/**
 * Minimises 6 N D + 2 N D_inference over all (N, D) whose loss is `loss`.
 * @param inferenceTokens  tokens read and written in the model's lifetime; 0 gives the compute-optimal training
 * @throws ConfigError for a loss that the law can never reach
 */
export function lifetimeOptimal(law: ParametricLaw, loss: number, inferenceTokens: number): LifetimeOptimum {
  requirePositive('lifetimeOptimal', { loss })
  if (!(inferenceTokens >= 0)) {
    throw new ConfigError(`lifetimeOptimal: inferenceTokens must be at least 0, got ${inferenceTokens}`)
  }
  if (!(loss > law.E)) {
    throw new ConfigError(
      `lifetimeOptimal: loss must be above the law's irreducible ${law.E.toFixed(4)}, got ${loss}: no model reaches it; ask for more`,
    )
  }
  const reducible = loss - law.E
  // By the share of the reducible loss that the size leaves: every share in (0, 1) is one model.
  const modelOf = (share: number): LifetimeOptimum => {
    const parameters = (law.A / (reducible * share)) ** (1 / law.alpha)
    const tokens = (law.B / (reducible * (1 - share))) ** (1 / law.beta)
    const trainingFlops = TRAINING_FLOPS * parameters * tokens
    const inferenceFlops = INFERENCE_FLOPS * parameters * inferenceTokens
    const totalFlops = trainingFlops + inferenceFlops
    return { parameters, tokens, loss: lossOf(law, parameters, tokens), trainingFlops, inferenceFlops, totalFlops }
  }
  // log FLOPs is a sum of convex functions of log(share / (1 - share)): one minimum.
  const costAt = (logit: number): number => Math.log(modelOf(1 / (1 + Math.exp(-logit))).totalFlops)
  const logit = goldenSection(costAt, -30, 30)
  return modelOf(1 / (1 + Math.exp(-logit)))
}

const GOLDEN = (Math.sqrt(5) - 1) / 2

/** Where a function with one minimum in [low, high] is lowest. */
export function goldenSection(f: (x: number) => number, low: number, high: number, tolerance = 1e-10): number {
  let [a, b] = [low, high]
  let left = b - GOLDEN * (b - a)
  let right = a + GOLDEN * (b - a)
  let [fLeft, fRight] = [f(left), f(right)]
  while (b - a > tolerance) {
    if (fLeft <= fRight) {
      b = right
      right = left
      fRight = fLeft
      left = b - GOLDEN * (b - a)
      fLeft = f(left)
    } else {
      a = left
      left = right
      fLeft = fRight
      right = a + GOLDEN * (b - a)
      fRight = f(right)
    }
  }
  return (a + b) / 2
}
