// Adam and AdamW over flat arenas.
//     m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
//     AdamW:  w = w - lr weightDecay w - lr mHat / (sqrt(vHat) + eps),  mHat = m / (1 - beta1^t), vHat likewise
//     Adam with decay adds weightDecay w to g instead.
// Kingma & Ba 2015, arXiv:1412.6980; Loshchilov & Hutter 2019, arXiv:1711.05101. docs/optimizers.md compares the
// convention of the lecture notes ('notes') with the paper's, step by step.
import { decayRanges, range } from '../core/arena.ts'
import type { AdamRange } from '../core/kernels.ts'
import type { ArenaState, UpdateRule } from './optimizer.ts'

export interface AdamConfig {
  beta1?: number
  beta2?: number
  eps?: number
  weightDecay?: number
  /** 'paper' (Kingma & Ba, PyTorch) or 'notes' (eps inside the root, no bias correction, old moments). */
  convention?: 'paper' | 'notes'
}

/** AdamW: weight decay apart from the gradient, on matrices only. */
export function adamw(config: AdamConfig = {}): UpdateRule {
  return adamRule('adamw', { weightDecay: 0.01, ...config }, false)
}

/** Adam: weight decay, where there is any, is added to the gradient. */
export function adam(config: AdamConfig = {}): UpdateRule {
  return adamRule('adam', config, true)
}

function adamRule(name: string, config: AdamConfig, coupledDecay: boolean): UpdateRule {
  const { beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weightDecay = 0, convention = 'paper' } = config
  const options = { beta1, beta2, eps, coupledDecay, convention }
  const rangesOf = ({ arena, states }: ArenaState): AdamRange[] =>
    decayRanges(arena).map(({ from, length, decays }) => ({
      weight: range(arena.weights, from, length),
      m: range(states.m!, from, length),
      v: range(states.v!, from, length),
      grad: range(arena.gradients!, from, length),
      working: arena.working && range(arena.working, from, length),
      weightDecay: decays ? weightDecay : 0,
    }))
  return {
    name,
    stateNames: () => ['m', 'v'],
    slicingUnit: 'element',
    betas: [beta1, beta2],
    update: (states, scalars) => scalars.device.kernels.adam(states.flatMap(rangesOf), scalars, options),
  }
}
