// SGD with momentum, and Lion: one state or none.
import { decayRanges, range } from '../core/arena.ts'
import type { UpdateRule } from './optimizer.ts'

/**
 * Stochastic gradient descent.
 *     v = momentum v + g,   w = w - lr weightDecay w - lr (nesterov ? g + momentum v : v)
 * With momentum 0 no state is kept and w = w - lr weightDecay w - lr g.
 */
export function sgd(config: { momentum?: number; nesterov?: boolean; weightDecay?: number } = {}): UpdateRule {
  const { momentum = 0, nesterov = false, weightDecay = 0 } = config
  return {
    name: 'sgd',
    stateNames: () => (momentum === 0 ? [] : ['velocity']),
    slicingUnit: 'element',
    betas: [0, 0],
    update(all, scalars) {
      for (const { arena, states } of all) {
        for (const { from, length, decays } of decayRanges(arena)) {
          scalars.device.kernels.sgd(
            range(arena.weights, from, length),
            states.velocity && range(states.velocity, from, length),
            range(arena.gradients!, from, length),
            scalars,
            { momentum, nesterov, weightDecay: decays ? weightDecay : 0 },
            arena.working && range(arena.working, from, length),
          )
        }
      }
    },
  }
}

/**
 * Lion: the sign of an interpolated momentum.
 *     w = w - lr weightDecay w - lr sign(beta1 m + (1 - beta1) g),   then m = beta2 m + (1 - beta2) g
 * Wants about a tenth of AdamW's learning rate and ten times its decay.
 * @see Chen et al. 2023, arXiv:2302.06675
 */
export function lion(config: { beta1?: number; beta2?: number; weightDecay?: number } = {}): UpdateRule {
  const { beta1 = 0.9, beta2 = 0.99, weightDecay = 0 } = config
  return {
    name: 'lion',
    stateNames: () => ['m'],
    slicingUnit: 'element',
    betas: [0, 0],
    update(all, scalars) {
      for (const { arena, states } of all) {
        for (const { from, length, decays } of decayRanges(arena)) {
          scalars.device.kernels.lion(
            range(arena.weights, from, length),
            range(states.m!, from, length),
            range(arena.gradients!, from, length),
            scalars,
            { beta1, beta2, weightDecay: decays ? weightDecay : 0 },
            arena.working && range(arena.working, from, length),
          )
        }
      }
    },
  }
}
