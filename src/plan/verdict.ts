// Whether a model is trained on too few tokens or on many: 20 tokens a parameter, and what the three approaches of
// Hoffmann et al. 2022 (arXiv:2203.15556) say, by the lines through the rows that the paper prints. Laws fitted to points
// are in scaling/.
import { trainingVerdict } from './scaling/parametric-law.ts'

/** Rows of table 3 (approach 1) and A3 (approaches 2 and 3): [parameters, FLOPs, tokens], as printed. */
export const PUBLISHED_OPTIMA = {
  'approach 1': [
    [400e6, 1.92e19, 8.0e9],
    [1e9, 1.21e20, 20.2e9],
    [10e9, 1.23e22, 205.1e9],
    [67e9, 5.76e23, 1.5e12],
    [175e9, 3.85e24, 3.7e12],
    [280e9, 9.9e24, 5.9e12],
    [520e9, 3.43e25, 11.0e12],
    [1e12, 1.27e26, 21.2e12],
    [10e12, 1.3e28, 216.2e12],
  ],
  'approach 2': [
    [400e6, 1.84e19, 7.7e9],
    [1e9, 1.2e20, 20.0e9],
    [10e9, 1.32e22, 219.5e9],
    [67e9, 6.88e23, 1.7e12],
    [175e9, 4.54e24, 4.3e12],
    [280e9, 1.18e25, 7.1e12],
    [520e9, 4.19e25, 13.4e12],
    [1e12, 1.59e26, 26.5e12],
    [10e12, 1.75e28, 292.0e12],
  ],
  'approach 3': [
    [400e6, 2.21e19, 9.2e9],
    [1e9, 1.62e20, 27.1e9],
    [10e9, 2.46e22, 410.1e9],
    [67e9, 1.71e24, 4.1e12],
    [175e9, 1.26e25, 12.0e12],
    [280e9, 3.52e25, 20.1e12],
    [520e9, 1.36e26, 43.5e12],
    [1e12, 5.65e26, 94.1e12],
    [10e12, 8.55e28, 1425.5e12],
  ],
} as const satisfies Record<string, readonly (readonly [number, number, number])[]>

export type Approach = keyof typeof PUBLISHED_OPTIMA

/** Tokens a parameter at the optimum, as the paper is usually put. */
export const TOKENS_PER_PARAMETER = 20

type Row = readonly [parameters: number, flops: number, tokens: number]

/** tokens = coefficient x parameters^exponent, by least squares on the logarithms of rows. */
export function fitOptimum(rows: readonly Row[]): { coefficient: number; exponent: number } {
  const points = rows.map(([parameters, , tokens]) => [Math.log(parameters), Math.log(tokens)] as const)
  const mean = (of: (point: readonly [number, number]) => number): number =>
    points.reduce((sum, point) => sum + of(point), 0) / points.length
  const [x, y] = [mean(([value]) => value), mean(([, value]) => value)]
  const exponent = mean(([a, b]) => (a - x) * (b - y)) / mean(([a]) => (a - x) ** 2)
  return { coefficient: Math.exp(y - exponent * x), exponent }
}

/** Tokens at which a model of so many parameters is the best use of its compute, by the paper's printed rows. */
export function optimalTokens(parameters: number, approach: Approach): number {
  const { coefficient, exponent } = fitOptimum(PUBLISHED_OPTIMA[approach])
  return coefficient * parameters ** exponent
}

export interface Verdict {
  readonly tokensPerParameter: number
  /** tokens / (20 parameters): below 1 for too few. */
  readonly ratio: number
  readonly sentence: string
  /** Optimal tokens of this many parameters, by approach. */
  readonly optimalTokens: Readonly<Record<Approach, number>>
  /** Parameters and tokens that the same FLOPs (6ND) would be spent on at 20 tokens a parameter. */
  readonly sameCompute: { readonly parameters: number; readonly tokens: number }
}

/** @param parameters  all of them; those that a token goes through, where there are experts */
export function judge(parameters: number, tokens: number): Verdict {
  const { tokensPerParameter, tokensRatio, sentence } = trainingVerdict(parameters, tokens)
  const optimalParameters = Math.sqrt((parameters * tokens) / TOKENS_PER_PARAMETER)
  const approaches = Object.keys(PUBLISHED_OPTIMA) as Approach[]
  return {
    tokensPerParameter,
    ratio: tokensRatio,
    sentence,
    optimalTokens: Object.fromEntries(
      approaches.map((approach) => [approach, optimalTokens(parameters, approach)]),
    ) as Record<Approach, number>,
    sameCompute: { parameters: optimalParameters, tokens: TOKENS_PER_PARAMETER * optimalParameters },
  }
}
