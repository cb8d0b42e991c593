// Reference kernels: fills, copies and sums.
import { invariant } from '../../core/errors.ts'
import { type Kernels, SCALAR } from '../../core/kernels.ts'
import { elementsOf, slicedRowsOf } from './memory.ts'

type Family = 'fill' | 'copy' | 'add' | 'accumulate' | 'axpby' | 'sumRows' | 'scaledSum'

export const elementwiseKernels: Pick<Kernels, Family> = {
  /** out_ij = value */
  fill(out, value) {
    for (const row of slicedRowsOf(out)) row.fill(value)
  },

  /** out_ij = x_ij */
  copy(out, x) {
    const y = slicedRowsOf(out)
    slicedRowsOf(x).forEach((row, i) => {
      y[i].set(row)
    })
  },

  /** out_i = a_i + b_i */
  add(out, a, b) {
    const y = elementsOf(out)
    const p = elementsOf(a)
    const q = elementsOf(b)
    for (let i = 0; i < y.length; i++) y[i] = p[i] + q[i]
  },

  /** out_ij = out_ij + x_ij */
  accumulate(out, x) {
    const y = slicedRowsOf(out)
    slicedRowsOf(x).forEach((row, i) => {
      for (let j = 0; j < row.length; j++) y[i][j] += row[j]
    })
  },

  /** out_i = alpha x_i + beta y_i */
  axpby(out, x, y, alpha, beta) {
    const result = elementsOf(out)
    const p = elementsOf(x)
    const q = elementsOf(y)
    for (let i = 0; i < result.length; i++) result[i] = alpha * p[i] + beta * q[i]
  },

  /** out_j (+)= sum_i x_ij */
  sumRows(out, x, accumulate) {
    const y = elementsOf(out)
    invariant(y.length === x.columnCount, 'sumRows: out has one element a column')
    if (!accumulate) y.fill(0)
    for (const row of slicedRowsOf(x)) for (let j = 0; j < row.length; j++) y[j] += row[j]
  },

  /** out (+)= lossScale * sum_i x_i */
  scaledSum(out, x, scalars, accumulate) {
    const y = elementsOf(out)
    let sum = 0
    for (const value of elementsOf(x)) sum += value
    const total = elementsOf(scalars)[SCALAR.lossScale] * sum
    y[0] = accumulate ? y[0] + total : total
  },
}
