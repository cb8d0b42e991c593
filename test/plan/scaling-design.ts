// The design of Hoffmann et al. 2022 (arXiv:2203.15556), for synthetic runs: the model sizes of their table A9, in millions
// of parameters, at the nine budgets of their isoFLOP curves (figure 3). No losses: tests make them from a law.
import { randomKey, randomNormalAt } from '../../src/core/random.ts'
import { lossOf, type ParametricLaw } from '../../src/plan/scaling/parametric-law.ts'
import type { RunPoint } from '../../src/plan/scaling/points.ts'

const MILLIONS = [
  44, 57, 74, 90, 106, 117, 140, 163, 175, 196, 217, 251, 278, 306, 425, 489, 509, 552, 587, 632, 664, 724, 816, 893, 1018,
  1143, 1266, 1424, 1429, 1593, 1609, 1731, 1794, 2007, 2283, 2298, 2639, 2980, 3530, 3802, 4084, 4516, 6796, 9293, 11452,
  12295, 12569, 13735, 14940, 16183,
] // biome-ignore format: a list to scan
const BUDGETS = [6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21]
/** Tokens a parameter of the runs in their figure. */
const [LEAST_RATIO, MOST_RATIO] = [1, 250]

/** Runs whose losses the law gives, times exp(noise z), z standard normal by (seed, index). */
export function chinchillaRuns(law: ParametricLaw, noise = 0, seed = 0): RunPoint[] {
  const key = randomKey(seed, 'noise of synthetic runs')
  const runs: RunPoint[] = []
  for (const flops of BUDGETS) {
    for (const million of MILLIONS) {
      const parameters = million * 1e6
      const tokens = flops / (6 * parameters)
      const ratio = tokens / parameters
      if (ratio < LEAST_RATIO || ratio > MOST_RATIO) continue
      const scatter = Math.exp(noise * randomNormalAt(key, runs.length))
      runs.push({ parameters, tokens, flops, loss: lossOf(law, parameters, tokens) * scatter })
    }
  }
  return runs
}
