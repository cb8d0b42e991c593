// Reference kernel: the matrix product, by its definition.
import { invariant } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import { elementsOf, slicedRowsOf } from './memory.ts'

/** The columns of a list of rows, as rows. */
function transposed(rows: Float64Array[]): Float64Array[] {
  return Array.from(rows[0] ?? [], (_, j) => Float64Array.from(rows, (row) => row[j]))
}

export const matmulKernels: Pick<Kernels, 'matmul'> = {
  /** out_ij (+)= sum_k a_ik b_kj + bias_j + residual_ij, where a and b may be stored transposed */
  matmul(out, a, b, { transposeA = false, transposeB = false, accumulate = false, bias, residual }) {
    const y = slicedRowsOf(out)
    const rowsOfA = transposeA ? transposed(slicedRowsOf(a)) : slicedRowsOf(a)
    const columnsOfB = transposeB ? slicedRowsOf(b) : transposed(slicedRowsOf(b))
    const inner = transposeA ? a.rowCount : a.columnCount
    invariant(rowsOfA.length === out.rowCount, 'matmul: a and out differ in rows')
    invariant((transposeB ? b.columnCount : b.rowCount) === inner, 'matmul: a and b differ in the inner dim')
    invariant(columnsOfB.length === out.columnCount, 'matmul: b and out differ in columns')
    const biases = bias && elementsOf(bias)
    const residuals = residual && slicedRowsOf(residual)
    rowsOfA.forEach((row, i) => {
      columnsOfB.forEach((column, j) => {
        let sum = accumulate ? y[i][j] : 0
        for (let k = 0; k < inner; k++) sum += row[k] * column[k]
        if (biases !== undefined) sum += biases[j]
        if (residuals !== undefined) sum += residuals[i][j]
        y[i][j] = sum
      })
    })
  },
}
