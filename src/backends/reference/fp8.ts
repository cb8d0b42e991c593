// Reference kernels: fp8. Bytes are kept as the numbers that they stand for, as everything here is a float64.

import { standaloneTensor } from '../../core/allocator.ts'
import { invariant } from '../../core/errors.ts'
import {
  FP8_HISTORY,
  FP8_LARGEST,
  FP8_SLOT_STRIDE,
  type Fp8CastOptions,
  type Fp8Format,
  type Fp8Kernels,
  type Fp8Scaling,
} from '../../core/fp8.ts'
import type { Tensor } from '../../core/tensor.ts'
import { activationKernels } from './activation.ts'
import { elementsOf, rowsOf, slicedRowsOf } from './memory.ts'
import { normKernels } from './norm.ts'

/** Bits of mantissa, and the exponent of the smallest normal number. */
const FORMATS: Readonly<Record<Fp8Format, { readonly mantissa: number; readonly smallest: number }>> = {
  e4m3: { mantissa: 3, smallest: -6 },
  e5m2: { mantissa: 2, smallest: -14 },
}

/** x rounded to the nearest number of the format, ties to even; beyond the largest one, that. */
export function roundToFp8(x: number, format: Fp8Format): number {
  if (Number.isNaN(x)) return x
  const { mantissa, smallest } = FORMATS[format]
  const largest = FP8_LARGEST[format]
  if (Math.abs(x) >= largest) return Math.sign(x) * largest
  const exponent = Math.max(smallest, exponentOf(x))
  const step = 2 ** (exponent - mantissa)
  const steps = Math.abs(x) / step
  const below = Math.floor(steps)
  const rest = steps - below
  const rounded = rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below
  return Math.sign(x) * Math.min(largest, rounded * step)
}

/** Of the largest power of two that is not above |x|. */
function exponentOf(x: number): number {
  if (x === 0) return Number.NEGATIVE_INFINITY
  const guess = Math.floor(Math.log2(Math.abs(x)))
  return 2 ** guess > Math.abs(x) ? guess - 1 : 2 ** (guess + 1) <= Math.abs(x) ? guess + 1 : guess
}

/** The largest power of two that brings amax to at most `largest`; 1 where there is nothing to bring. */
export function scaleFor(amax: number, largest: number): number {
  return amax > 0 && Number.isFinite(amax) ? 2 ** Math.min(126, exponentOf(largest / amax)) : 1
}

/** The rows of what is cast: x, or what an activation makes of it. */
function sourceOf(x: Tensor, columns: number, { activation, other }: Fp8CastOptions): number[][] {
  const source = activation === undefined ? x : standaloneTensor(x.device, [x.rowCount, columns])
  if (activation === 'gelu') activationKernels.gelu(source, x, 'tanh')
  else if (activation === 'geluBackward') activationKernels.geluBackward(source, x, other!, 'tanh')
  else if (activation === 'swiglu') activationKernels.swiglu(source, x)
  else if (activation === 'swigluBackward') activationKernels.swigluBackward(source, x, other!)
  return slicedRowsOf(source).map((row) => Array.from(row))
}

/** Of the numbers: NaN is none. */
const largestOf = (values: readonly number[]): number =>
  values.reduce((most, x) => (Number.isNaN(x) ? most : Math.max(most, Math.abs(x))), 0)

/** byte_ij = round(scale x_ij), where scale is the slot's, or that of row i (rows) and of column j (columns). */
const cast: Fp8Kernels['cast'] = (out, x, slot, options) => {
  const source = sourceOf(x, out.rows.columnCount, options)
  const { format } = out
  const columns = Array.from(source[0] ?? [], (_, j) => source.map((row) => row[j]))
  const write = (to: Tensor, values: readonly number[][], scale: Tensor): void => {
    const inverses = elementsOf(scale)
    const target = rowsOf(to)
    values.forEach((row, i) => {
      if (slot === undefined) inverses[i] = 1 / scaleFor(largestOf(row), FP8_LARGEST[format])
      const factor = slot === undefined ? 1 / inverses[i] : elementsOf(slot.scale)[0]
      row.forEach((value, j) => {
        target[i][j] = roundToFp8(value * factor, format)
      })
    })
  }
  write(out.rows, source, out.rowScale)
  write(out.columns, columns, out.columnScale)
  if (slot !== undefined) {
    const amax = elementsOf(slot.amax)
    amax[0] = Math.max(amax[0], ...source.map(largestOf))
  }
  if (options.columnSums === undefined) return
  const sums = elementsOf(options.columnSums)
  columns.forEach((column, j) => {
    sums[j] = (options.accumulate ? sums[j] : 0) + column.reduce((sum, value) => sum + value, 0)
  })
}

export function fp8Kernels(scaling: Fp8Scaling): Fp8Kernels {
  return {
    scaling,
    gains: () => true,
    cast,
    castsNorm: () => true,
    castNorm(out, slot, x, { weight, bias, mean, rstd, eps }) {
      const normed = standaloneTensor(x.device, x.shape)
      if (bias === undefined || mean === undefined) normKernels.rmsnorm(normed, rstd, x, weight, eps)
      else normKernels.layernorm(normed, mean, rstd, x, weight, bias, eps)
      cast(out, normed, slot, {})
    },
    prime(slot, format) {
      const scale = scaleFor(elementsOf(slot.amax)[0], FP8_LARGEST[format])
      elementsOf(slot.scale)[0] = scale
      elementsOf(slot.inverse)[0] = 1 / scale
    },
    /** out_ij (+)= scaleA_i scaleB_j sum_k a_ik b_jk + bias_j + residual_ij */
    matmul(out, a, b, { accumulate, bias, residual }) {
      const [y, rowsOfA, rowsOfB] = [slicedRowsOf(out), rowsOf(a.values), rowsOf(b.values)]
      invariant(rowsOfA.length === y.length && rowsOfB.length === out.columnCount, 'fp8 matmul: shapes differ')
      const [scaleA, scaleB] = [elementsOf(a.scale), elementsOf(b.scale)]
      const biases = bias && elementsOf(bias)
      const residuals = residual && slicedRowsOf(residual)
      rowsOfA.forEach((row, i) => {
        rowsOfB.forEach((column, j) => {
          let sum = 0
          for (let k = 0; k < row.length; k++) sum += row[k] * column[k]
          sum *= scaleA[scaleA.length === 1 ? 0 : i] * scaleB[scaleB.length === 1 ? 0 : j]
          y[i][j] = (accumulate ? y[i][j] : 0) + sum + (biases?.[j] ?? 0) + (residuals?.[i][j] ?? 0)
        })
      })
    },
    updateScales(state) {
      const [scale, inverse, amax, largest, history] = [
        state.scale,
        state.inverse,
        state.amax,
        state.largest,
        state.history,
      ].map(elementsOf) as [Float64Array, Float64Array, Float64Array, Float64Array, Float64Array]
      for (let i = 0; i < largest.length; i++) {
        const at = i * FP8_SLOT_STRIDE
        const own = history.subarray(i * FP8_HISTORY, (i + 1) * FP8_HISTORY)
        if (amax[at] > 0 && Number.isFinite(amax[at])) {
          own.copyWithin(1, 0)
          own[0] = amax[at]
        }
        amax[at] = 0
        const most = Math.max(...own)
        if (most === 0) continue
        scale[at] = scaleFor(most, largest[i])
        inverse[at] = 1 / scale[at]
      }
    },
  }
}
