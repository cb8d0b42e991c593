// Reference kernels: RMSNorm and LayerNorm over the rows of a matrix, with their gradients.
// With xhat the normalised row, dxhat = dOut * weight and D the length of a row:
//     RMSNorm    dx = rstd (dxhat - xhat mean(dxhat * xhat))
//     LayerNorm  dx = rstd (dxhat - mean(dxhat) - xhat mean(dxhat * xhat))
import type { Kernels } from '../../core/kernels.ts'
import { elementsOf, rowsOf } from './memory.ts'

type Family =
  | 'rmsnorm'
  | 'rmsnormBackwardInput'
  | 'rmsnormBackwardWeight'
  | 'rmsnormBackward'
  | 'layernorm'
  | 'layernormBackwardInput'
  | 'layernormBackwardWeight'
  | 'layernormBackward'

/** (1/D) sum_j term(j) */
function mean(length: number, term: (j: number) => number): number {
  let sum = 0
  for (let j = 0; j < length; j++) sum += term(j)
  return sum / length
}

export const normKernels: Pick<Kernels, Family> = {
  /** rstd_i = 1 / sqrt(mean_j(x_ij^2) + eps),  out_ij = x_ij rstd_i weight_j */
  rmsnorm(out, rstd, x, weight, eps) {
    const y = rowsOf(out)
    const r = elementsOf(rstd)
    const w = elementsOf(weight)
    rowsOf(x).forEach((row, i) => {
      r[i] = 1 / Math.sqrt(mean(row.length, (j) => row[j] * row[j]) + eps)
      for (let j = 0; j < row.length; j++) y[i][j] = row[j] * r[i] * w[j]
    })
  },

  rmsnormBackwardInput(dx, dOut, x, weight, rstd, accumulate) {
    const gradient = rowsOf(dx)
    const dy = rowsOf(dOut)
    const r = elementsOf(rstd)
    const w = elementsOf(weight)
    rowsOf(x).forEach((row, i) => {
      const xhat = row.map((value) => value * r[i])
      const dxhat = dy[i].map((value, j) => value * w[j])
      const projection = mean(row.length, (j) => dxhat[j] * xhat[j])
      for (let j = 0; j < row.length; j++) {
        const value = r[i] * (dxhat[j] - xhat[j] * projection)
        gradient[i][j] = accumulate ? gradient[i][j] + value : value
      }
    })
  },

  /** dWeight_j (+)= sum_i dOut_ij x_ij rstd_i */
  rmsnormBackwardWeight(dWeight, dOut, x, rstd, accumulate) {
    const gradient = elementsOf(dWeight)
    const dy = rowsOf(dOut)
    const r = elementsOf(rstd)
    if (!accumulate) gradient.fill(0)
    rowsOf(x).forEach((row, i) => {
      for (let j = 0; j < row.length; j++) gradient[j] += dy[i][j] * row[j] * r[i]
    })
  },

  rmsnormBackward(dx, dWeight, dOut, x, weight, rstd, accumulate, again) {
    normKernels.rmsnormBackwardWeight(dWeight, dOut, x, rstd, accumulate.dWeight)
    normKernels.rmsnormBackwardInput(dx, dOut, x, weight, rstd, accumulate.dx)
    if (again === undefined) return
    const y = rowsOf(again.out)
    const [r, w] = [elementsOf(rstd), elementsOf(weight)]
    rowsOf(x).forEach((row, i) => {
      for (let j = 0; j < row.length; j++) y[i][j] = row[j] * r[i] * w[j]
    })
  },

  /** mean_i, rstd_i = 1 / sqrt(mean_j((x_ij - mean_i)^2) + eps),  out_ij = (x_ij - mean_i) rstd_i weight_j + bias_j */
  layernorm(out, means, rstd, x, weight, bias, eps) {
    const y = rowsOf(out)
    const m = elementsOf(means)
    const r = elementsOf(rstd)
    const w = elementsOf(weight)
    const b = elementsOf(bias)
    rowsOf(x).forEach((row, i) => {
      m[i] = mean(row.length, (j) => row[j])
      r[i] = 1 / Math.sqrt(mean(row.length, (j) => (row[j] - m[i]) ** 2) + eps)
      for (let j = 0; j < row.length; j++) y[i][j] = (row[j] - m[i]) * r[i] * w[j] + b[j]
    })
  },

  layernormBackwardInput(dx, dOut, x, weight, means, rstd, accumulate) {
    const gradient = rowsOf(dx)
    const dy = rowsOf(dOut)
    const m = elementsOf(means)
    const r = elementsOf(rstd)
    const w = elementsOf(weight)
    rowsOf(x).forEach((row, i) => {
      const xhat = row.map((value) => (value - m[i]) * r[i])
      const dxhat = dy[i].map((value, j) => value * w[j])
      const average = mean(row.length, (j) => dxhat[j])
      const projection = mean(row.length, (j) => dxhat[j] * xhat[j])
      for (let j = 0; j < row.length; j++) {
        const value = r[i] * (dxhat[j] - average - xhat[j] * projection)
        gradient[i][j] = accumulate ? gradient[i][j] + value : value
      }
    })
  },

  /** dWeight_j (+)= sum_i dOut_ij (x_ij - mean_i) rstd_i,  dBias_j (+)= sum_i dOut_ij */
  layernormBackwardWeight(dWeight, dBias, dOut, x, means, rstd, accumulate) {
    const gradient = elementsOf(dWeight)
    const biasGradient = elementsOf(dBias)
    const dy = rowsOf(dOut)
    const m = elementsOf(means)
    const r = elementsOf(rstd)
    if (!accumulate) {
      gradient.fill(0)
      biasGradient.fill(0)
    }
    rowsOf(x).forEach((row, i) => {
      for (let j = 0; j < row.length; j++) {
        gradient[j] += dy[i][j] * (row[j] - m[i]) * r[i]
        biasGradient[j] += dy[i][j]
      }
    })
  },

  layernormBackward(dx, dWeight, dBias, dOut, x, weight, means, rstd, accumulate, sumOfDx, again) {
    if (!accumulate.dWeight) elementsOf(dWeight).fill(0)
    if (!accumulate.dBias) elementsOf(dBias).fill(0)
    normKernels.layernormBackwardWeight(dWeight, dBias, dOut, x, means, rstd, true)
    normKernels.layernormBackwardInput(dx, dOut, x, weight, means, rstd, accumulate.dx)
    if (again !== undefined) {
      const y = rowsOf(again.out)
      const [mean, r] = [elementsOf(means), elementsOf(rstd)]
      const [w, b] = [elementsOf(weight), elementsOf(again.bias)]
      rowsOf(x).forEach((row, i) => {
        for (let j = 0; j < row.length; j++) y[i][j] = (row[j] - mean[i]) * r[i] * w[j] + b[j]
      })
    }
    if (sumOfDx === undefined) return
    const sums = elementsOf(sumOfDx.sums)
    if (!sumOfDx.accumulate) sums.fill(0)
    for (const row of rowsOf(dx)) for (let j = 0; j < row.length; j++) sums[j] += row[j]
  },
}
