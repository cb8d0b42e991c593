// Reference kernel: the matrix product, by its definition.
import { invariant } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import { elementsOf, slicedRowsOf } from './memory.ts'

export const matmulKernels: Pick<Kernels, 'matmul'> = {
  /** out_ij (+)= sum_k a_ik b_kj + bias_j + residual_ij, where a and b may be stored transposed */
  matmul(out, a, b, { transposeA = false, transposeB = false, accumulate = false, bias, residual }) {
    const y = slicedRowsOf(out)
    const p = slicedRowsOf(a)
    const q = slicedRowsOf(b)
    const inner = transposeA ? a.rowCount : a.columnCount
    invariant((transposeA ? a.columnCount : a.rowCount) === out.rowCount, 'matmul: a and out differ in rows')
    invariant((transposeB ? b.columnCount : b.rowCount) === inner, 'matmul: a and b differ in the inner dim')
    invariant((transposeB ? b.rowCount : b.columnCount) === out.columnCount, 'matmul: b and out differ in columns')
    const biases = bias && elementsOf(bias)
    const residuals = residual && slicedRowsOf(residual)
    for (let i = 0; i < out.rowCount; i++) {
      for (let j = 0; j < out.columnCount; j++) {
        let sum = accumulate ? y[i][j] : 0
        for (let k = 0; k < inner; k++) sum += (transposeA ? p[k][i] : p[i][k]) * (transposeB ? q[j][k] : q[k][j])
        if (biases !== undefined) sum += biases[j]
        if (residuals !== undefined) sum += residuals[i][j]
        y[i][j] = sum
      }
    }
  },
}
