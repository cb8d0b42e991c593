// Reference kernel: the matrix product, by its definition.
import { invariant } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { geluOf, geluSlope } from './activation.ts'
import { elementsOf, slicedRowsOf } from './memory.ts'

/** The columns of a list of rows, as rows. */
function transposed(rows: Float64Array[]): Float64Array[] {
  return Array.from(rows[0] ?? [], (_, j) => Float64Array.from(rows, (row) => row[j]))
}

/** out_j (+)= sum_k x_kj */
function sumOverRows(out: Tensor, x: Tensor, accumulate: boolean): void {
  const sums = elementsOf(out)
  if (!accumulate) sums.fill(0)
  for (const row of slicedRowsOf(x)) {
    for (let j = 0; j < row.length; j++) sums[j] += row[j]
  }
}

export const matmulKernels: Pick<Kernels, 'matmul'> = {
  /**
   * out_ij (+)= sum_k a_ik b_kj + bias_j + residual_ij, where a and b may be stored transposed; with gelu
   * pre_ij = sum_k a_ik b_kj + bias_j and out_ij = gelu(pre_ij), with geluBackward out_ij = gelu'(pre_ij) sum_k a_ik b_kj
   */
  matmul(out, a, b, options) {
    const { transposeA = false, transposeB = false, accumulate = false, bias, residual } = options
    const { gelu, geluBackward, sumOfA, sumOfB } = options
    const y = slicedRowsOf(out)
    const rowsOfA = transposeA ? transposed(slicedRowsOf(a)) : slicedRowsOf(a)
    const columnsOfB = transposeB ? slicedRowsOf(b) : transposed(slicedRowsOf(b))
    const inner = transposeA ? a.rowCount : a.columnCount
    invariant(rowsOfA.length === out.rowCount, 'matmul: a and out differ in rows')
    invariant((transposeB ? b.columnCount : b.rowCount) === inner, 'matmul: a and b differ in the inner dim')
    invariant(columnsOfB.length === out.columnCount, 'matmul: b and out differ in columns')
    invariant(
      (gelu === undefined && geluBackward === undefined) || (!accumulate && residual === undefined),
      'matmul: gelu goes with bias only, its backward alone',
    )
    const biases = bias && elementsOf(bias)
    const residuals = residual && slicedRowsOf(residual)
    const kept = gelu && slicedRowsOf(gelu.preActivation)
    const preActivations = geluBackward && slicedRowsOf(geluBackward)
    rowsOfA.forEach((row, i) => {
      columnsOfB.forEach((column, j) => {
        let sum = accumulate ? y[i][j] : 0
        for (let k = 0; k < inner; k++) sum += row[k] * column[k]
        if (biases !== undefined) sum += biases[j]
        if (residuals !== undefined) sum += residuals[i][j]
        if (kept !== undefined) {
          kept[i][j] = sum
          sum = geluOf(sum, 'tanh')
        }
        if (preActivations !== undefined) sum *= geluSlope(preActivations[i][j], 'tanh')
        y[i][j] = sum
      })
    })
    if (sumOfA !== undefined) {
      invariant(transposeA, 'matmul: sumOfA is of an a that is stored [K, M]')
      sumOverRows(sumOfA, a, accumulate)
    }
    if (sumOfB !== undefined) {
      invariant(!transposeB, 'matmul: sumOfB is of a b that is stored [K, N]')
      sumOverRows(sumOfB, b, accumulate)
    }
  },
}
