// Learning-rate schedules: a linear warm-up, then cosine, linear or warm-up-stable-decay. Pure functions of the step.

export interface ScheduleConfig {
  kind: 'cosine' | 'linear' | 'wsd' | 'constant'
  /** Highest learning rate, reached at the end of the warm-up. */
  lr: number
  /** Learning rate at the last step. */
  minLr: number
  warmupSteps: number
  maxSteps: number
  /** wsd: the part of maxSteps at the end over which the rate falls linearly to minLr. */
  decayFraction: number
}

/**
 * Learning rate of a step.
 * @param step  1 for the first optimizer step
 */
export function learningRate(config: ScheduleConfig, step: number): number {
  const { kind, lr, minLr, warmupSteps, maxSteps } = config
  if (step <= warmupSteps) return (lr * step) / Math.max(1, warmupSteps)
  if (kind === 'constant') return lr
  const stableUntil = kind === 'wsd' ? Math.round(maxSteps * (1 - config.decayFraction)) : 0
  // A fall that is longer than what the warm-up leaves starts where the warm-up ends: the rate must not jump.
  const fallFrom = Math.max(warmupSteps, stableUntil)
  const progress = Math.min(1, Math.max(0, (step - fallFrom) / Math.max(1, maxSteps - fallFrom)))
  const share = kind === 'cosine' ? 0.5 * (1 + Math.cos(Math.PI * progress)) : 1 - progress
  return minLr + (lr - minLr) * share
}
