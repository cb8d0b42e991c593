// The laws of Kaplan et al. 2020, "Scaling Laws for Neural Language Models" (arXiv:2001.08361), with their constants:
// parameters without embeddings, tokens of WebText2 (their vocabulary: the loss is theirs too), compute in PF-days.
// They are kept for comparison: warm-up, fixed decay and batch of their runs bent the exponents (Porian et al. 2024,
// arXiv:2406.19146), and Hoffmann et al. divide a budget otherwise.
import { requirePositive } from './parametric-law.ts'

/** FLOPs of a PF-day. */
export const PF_DAY = 1e15 * 86400

interface PowerLaw {
  readonly scale: number
  readonly exponent: number
}

/** Table 5 and equations 1.1 to 1.3. */
const BY_PARAMETERS: PowerLaw = { scale: 8.8e13, exponent: 0.076 }
const BY_TOKENS: PowerLaw = { scale: 5.4e13, exponent: 0.095 }
const BY_COMPUTE: PowerLaw = { scale: 3.1e8, exponent: 0.05 }
/** Table 2: the joint fit. */
const JOINT = { alphaN: 0.076, alphaD: 0.103, scaleN: 6.4e13, scaleD: 1.8e13 }

const power = (x: number, { scale, exponent }: PowerLaw): number => (scale / x) ** exponent

/** L(N) = (N_c / N)^0.076: trained to convergence on enough text. @param parameters without embeddings */
export function kaplanLossByParameters(parameters: number): number {
  requirePositive('kaplanLossByParameters', { parameters })
  return power(parameters, BY_PARAMETERS)
}

/** L(D) = (D_c / D)^0.095: a large model, stopped in time. */
export function kaplanLossByTokens(tokens: number): number {
  requirePositive('kaplanLossByTokens', { tokens })
  return power(tokens, BY_TOKENS)
}

/** L(C) = (C_c / C)^0.050: compute used as well as can be. @param flops  at a batch far below the critical one */
export function kaplanLossByCompute(flops: number): number {
  requirePositive('kaplanLossByCompute', { flops })
  return power(flops / PF_DAY, BY_COMPUTE)
}

/** L(N, D) = ((N_c / N)^(alphaN / alphaD) + D_c / D)^alphaD, equation 1.5. */
export function kaplanLoss(parameters: number, tokens: number): number {
  requirePositive('kaplanLoss', { parameters, tokens })
  const { alphaN, alphaD, scaleN, scaleD } = JOINT
  return ((scaleN / parameters) ** (alphaN / alphaD) + scaleD / tokens) ** alphaD
}

export interface KaplanAllocation {
  /** Without embeddings. */
  parameters: number
  batchTokens: number
  steps: number
  tokens: number
}

/** N = 1.3e9 C^0.73, B = 2.0e6 C^0.24, S = 5.4e3 C^0.03, D = 2e10 C^0.27, C in PF-days (table 6). */
export function kaplanOptimal(flops: number): KaplanAllocation {
  requirePositive('kaplanOptimal', { flops })
  const c = flops / PF_DAY
  return {
    parameters: 1.3e9 * c ** 0.73,
    batchTokens: 2e6 * c ** 0.24,
    steps: 5.4e3 * c ** 0.03,
    tokens: 2e10 * c ** 0.27,
  }
}

/** Batch beyond which more sequences a step save few steps: 2e8 / L^(1 / 0.21) tokens, equation 5.3. */
export function kaplanCriticalBatch(loss: number): number {
  requirePositive('kaplanCriticalBatch', { loss })
  return 2e8 / loss ** (1 / 0.21)
}
