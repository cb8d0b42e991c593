// Reference kernel: softmax cross-entropy over rows of logits, the gradient written in their place.
import { invariant } from '../../core/errors.ts'
import { type Kernels, SCALAR } from '../../core/kernels.ts'
import { elementsOf, rowsOf } from './memory.ts'

export const lossKernels: Pick<Kernels, 'softmaxCrossEntropy'> = {
  /**
   * With t the target of row i: loss_i = log sum_j exp(z_ij) - z_it, and with scalars
   * z_ij becomes (softmax_j(z_i) - [j = t]) lossScale gradScale. Rows without a target (-1) give zeros.
   */
  softmaxCrossEntropy(losses, logits, targets, scalars) {
    const loss = elementsOf(losses)
    const target = elementsOf(targets)
    const values = scalars && elementsOf(scalars)
    const scale = values && values[SCALAR.lossScale] * values[SCALAR.gradScale]
    rowsOf(logits).forEach((z, i) => {
      const t = target[i]
      if (t === -1) {
        loss[i] = 0
        if (scale !== undefined) z.fill(0)
        return
      }
      invariant(t >= 0 && t < z.length, `softmaxCrossEntropy: target ${t} is outside the ${z.length} classes`)
      const top = z.reduce((a, value) => Math.max(a, value), Number.NEGATIVE_INFINITY)
      const sum = z.reduce((total, value) => total + Math.exp(value - top), 0)
      loss[i] = top + Math.log(sum) - z[t]
      if (scale === undefined) return
      for (let j = 0; j < z.length; j++) z[j] = (Math.exp(z[j] - top) / sum) * scale
      z[t] -= scale
    })
  },
}
