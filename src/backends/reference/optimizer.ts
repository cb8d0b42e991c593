// Reference kernels: gradient norm, clipping and the update rules. g is the gradient times the clip factor. A step
// whose gradients are not finite leaves weights and states as they were.
import { type Kernels, SCALAR } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { elementsOf } from './memory.ts'

type Family =
  | 'sumOfSquares'
  | 'clipFactor'
  | 'updateLossScale'
  | 'adam'
  | 'sgd'
  | 'lion'
  | 'momentum'
  | 'normalize'
  | 'applyUpdate'

function squares(x: Float64Array): number {
  let sum = 0
  for (const value of x) sum += value * value
  return sum
}

/** The step's numbers by name. */
function step(scalars: Tensor) {
  const s = elementsOf(scalars)
  return {
    lr: s[SCALAR.lr],
    biasCorrection1: s[SCALAR.biasCorrection1],
    biasCorrection2: s[SCALAR.biasCorrection2],
    clipFactor: s[SCALAR.clipFactor],
    isUsable: s[SCALAR.isFinite] !== 0,
  }
}

/** The copy that ops read; here it has as many bits as the weights. */
function refresh(working: Tensor | undefined, weights: Float64Array): void {
  if (working !== undefined) elementsOf(working).set(weights)
}

export const optimizerKernels: Pick<Kernels, Family> = {
  /** gradSumOfSquares = sum_i x_i^2, over all x */
  sumOfSquares(scalars, xs) {
    elementsOf(scalars)[SCALAR.gradSumOfSquares] = xs.reduce((sum, x) => sum + squares(elementsOf(x)), 0)
  },

  /** gradNorm = sqrt(gradSumOfSquares) / gradScale,  clipFactor = min(1, maxNorm / gradNorm) / gradScale, maxNorm 0: no limit */
  clipFactor(scalars, maxNorm) {
    const s = elementsOf(scalars)
    const norm = Math.sqrt(s[SCALAR.gradSumOfSquares]) / s[SCALAR.gradScale]
    s[SCALAR.gradNorm] = norm
    s[SCALAR.clipFactor] = (maxNorm > 0 && norm > maxNorm ? maxNorm / norm : 1) / s[SCALAR.gradScale]
    s[SCALAR.isFinite] = Number.isFinite(norm) ? 1 : 0
  },

  /**
   * Finite: after growthInterval such steps in a row gradScale grows. Not finite: the step counts as skipped, and after
   * `hysteresis` of them since it last shrank (or grew) gradScale shrinks.
   */
  updateLossScale(scalars, { growthFactor, growthInterval, backoffFactor, hysteresis, minScale }) {
    const s = elementsOf(scalars)
    if (s[SCALAR.isFinite] !== 0) {
      s[SCALAR.goodSteps]++
      if (s[SCALAR.goodSteps] < growthInterval) return
      s[SCALAR.gradScale] *= growthFactor
      s[SCALAR.goodSteps] = 0
      s[SCALAR.hysteresisLeft] = hysteresis
      return
    }
    s[SCALAR.skippedSteps]++
    s[SCALAR.goodSteps] = 0
    s[SCALAR.hysteresisLeft]--
    if (s[SCALAR.hysteresisLeft] > 0) return
    s[SCALAR.gradScale] = Math.max(minScale, s[SCALAR.gradScale] * backoffFactor)
    s[SCALAR.hysteresisLeft] = hysteresis
  },

  /**
   * Decay: AdamW shrinks w by 1 - lr weightDecay, Adam (coupled) adds weightDecay w to g instead. Then
   *     m' = beta1 m + (1 - beta1) g,   v' = beta2 v + (1 - beta2) g^2
   * 'paper' (Kingma & Ba, and PyTorch):  w -= lr (m' / bc1) / (sqrt(v' / bc2) + eps),  bc = 1 - beta^t
   * 'notes' (the lecture slide):         w -= lr m / sqrt(v + eps), with the moments from before this gradient
   */
  adam(ranges, scalars, { beta1, beta2, eps, coupledDecay, convention }) {
    const { lr, biasCorrection1, biasCorrection2, clipFactor, isUsable } = step(scalars)
    if (!isUsable) return
    for (const { weight, m, v, grad, working, weightDecay } of ranges) {
      const w = elementsOf(weight)
      const first = elementsOf(m)
      const second = elementsOf(v)
      elementsOf(grad).forEach((value, i) => {
        const decayed = coupledDecay ? w[i] : w[i] * (1 - lr * weightDecay)
        const g = clipFactor * value + (coupledDecay ? weightDecay * w[i] : 0)
        const newFirst = beta1 * first[i] + (1 - beta1) * g
        const newSecond = beta2 * second[i] + (1 - beta2) * g * g
        const update =
          convention === 'notes'
            ? first[i] / Math.sqrt(second[i] + eps)
            : newFirst / biasCorrection1 / (Math.sqrt(newSecond / biasCorrection2) + eps)
        w[i] = decayed - lr * update
        first[i] = newFirst
        second[i] = newSecond
      })
      refresh(working, w)
    }
  },

  /** v' = momentum v + g,  w = w (1 - lr weightDecay) - lr (nesterov ? g + momentum v' : v'); g itself without v */
  sgd(weight, velocity, grad, scalars, { momentum, nesterov, weightDecay }, working) {
    const { lr, clipFactor, isUsable } = step(scalars)
    if (!isUsable) return
    const w = elementsOf(weight)
    const state = velocity && elementsOf(velocity)
    elementsOf(grad).forEach((value, i) => {
      const g = clipFactor * value
      let update = g
      if (state !== undefined) {
        state[i] = momentum * state[i] + g
        update = nesterov ? g + momentum * state[i] : state[i]
      }
      w[i] = w[i] * (1 - lr * weightDecay) - lr * update
    })
    refresh(working, w)
  },

  /** w = w (1 - lr weightDecay) - lr sign(beta1 m + (1 - beta1) g),  m' = beta2 m + (1 - beta2) g */
  lion(weight, m, grad, scalars, { beta1, beta2, weightDecay }, working) {
    const { lr, clipFactor, isUsable } = step(scalars)
    if (!isUsable) return
    const w = elementsOf(weight)
    const state = elementsOf(m)
    elementsOf(grad).forEach((value, i) => {
      const g = clipFactor * value
      w[i] = w[i] * (1 - lr * weightDecay) - lr * Math.sign(beta1 * state[i] + (1 - beta1) * g)
      state[i] = beta2 * state[i] + (1 - beta2) * g
    })
    refresh(working, w)
  },

  /** m' = momentum m + g (kept only if finite),  out = nesterov ? g + momentum m' : m' */
  momentum(out, m, grad, scalars, { momentum, nesterov }) {
    const { clipFactor, isUsable } = step(scalars)
    const y = elementsOf(out)
    const state = elementsOf(m)
    elementsOf(grad).forEach((value, i) => {
      const g = clipFactor * value
      const next = momentum * state[i] + g
      y[i] = nesterov ? g + momentum * next : next
      if (isUsable) state[i] = next
    })
  },

  /** out_i = x_i / (|x| + eps), |x| the Frobenius norm */
  normalize(out, x, eps) {
    const y = elementsOf(out)
    const source = elementsOf(x)
    const norm = Math.sqrt(squares(source))
    for (let i = 0; i < y.length; i++) y[i] = source[i] / (norm + eps)
  },

  /** w = w (1 - lr weightDecay) - lr scale update */
  applyUpdate(weight, update, scalars, { scale, weightDecay }, working) {
    const { lr, isUsable } = step(scalars)
    if (!isUsable) return
    const w = elementsOf(weight)
    elementsOf(update).forEach((value, i) => {
      w[i] = w[i] * (1 - lr * weightDecay) - lr * scale * value
    })
    refresh(working, w)
  },
}
