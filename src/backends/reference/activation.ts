// Reference kernels: SwiGLU, GELU and rotary positions.
import type { Kernels } from '../../core/kernels.ts'
import { elementsOf, rowsOf, slicedRowsOf } from './memory.ts'

type Family = 'swiglu' | 'swigluBackward' | 'gelu' | 'geluBackward' | 'rope'

/** s(g) = 1 / (1 + exp(-g)) */
function sigmoid(g: number): number {
  return 1 / (1 + Math.exp(-g))
}

/**
 * The error function by erf(x) = 2/sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (1 3 5 .. (2n+1)): every term has the sign
 * of x, so nothing cancels (Abramowitz & Stegun 7.1.6). Beyond 6 it is 1 to the last bit.
 */
export function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x)
  let term = x
  let sum = x
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1)
    sum += term
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
}

/** Phi(x), the normal distribution function, and its derivative */
function normalCdf(x: number): number {
  return 0.5 * (1 + erf(x / Math.SQRT2))
}
function normalDensity(x: number): number {
  return Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI)
}

const ROOT = Math.sqrt(2 / Math.PI)
const CUBIC = 0.044715

/** 'none': x Phi(x);  'tanh': x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3) */
export function geluOf(x: number, approximate: 'none' | 'tanh'): number {
  if (approximate === 'none') return x * normalCdf(x)
  return 0.5 * x * (1 + Math.tanh(ROOT * (x + CUBIC * x ** 3)))
}

/** 'none': Phi(x) + x phi(x);  'tanh': (1 + t)/2 + x (1 - t^2)/2 du/dx with t = tanh u */
export function geluSlope(x: number, approximate: 'none' | 'tanh'): number {
  if (approximate === 'none') return normalCdf(x) + x * normalDensity(x)
  const t = Math.tanh(ROOT * (x + CUBIC * x ** 3))
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT * (1 + 3 * CUBIC * x * x)
}

export const activationKernels: Pick<Kernels, Family> = {
  /** out_ij = g s(g) u with g = gateUp_ij, u = gateUp_i(F+j) */
  swiglu(out, gateUp) {
    const width = out.columnCount
    const x = rowsOf(gateUp)
    rowsOf(out).forEach((row, i) => {
      for (let j = 0; j < width; j++) row[j] = x[i][j] * sigmoid(x[i][j]) * x[i][width + j]
    })
  },

  /** dg = dOut u s (1 + g (1 - s)),  du = dOut g s */
  swigluBackward(dGateUp, dOut, gateUp, out) {
    if (out !== undefined) activationKernels.swiglu(out, gateUp)
    const width = dOut.columnCount
    const gradient = rowsOf(dGateUp)
    const dy = rowsOf(dOut)
    rowsOf(gateUp).forEach((row, i) => {
      for (let j = 0; j < width; j++) {
        const gate = row[j]
        const up = row[width + j]
        const s = sigmoid(gate)
        gradient[i][j] = dy[i][j] * up * s * (1 + gate * (1 - s))
        gradient[i][width + j] = dy[i][j] * gate * s
      }
    })
  },

  gelu(out, x, approximate) {
    const y = elementsOf(out)
    elementsOf(x).forEach((value, i) => {
      y[i] = geluOf(value, approximate)
    })
  },

  /** dx_i = dOut_i gelu'(x_i) */
  geluBackward(dx, dOut, x, approximate) {
    const gradient = elementsOf(dx)
    const dy = elementsOf(dOut)
    elementsOf(x).forEach((value, i) => {
      gradient[i] = dy[i] * geluSlope(value, approximate)
    })
  },

  /**
   * With a = x_k, b = x_(k + K/2) of a head and the angle t of the row's position and k:
   *     out_k = a cos t - b sin t,  out_(k + K/2) = b cos t + a sin t;  the inverse turns by -t.
   */
  rope(out, x, positions, cos, sin, { numHeads, headDim, inverse }) {
    const half = headDim / 2
    const y = slicedRowsOf(out)
    const cosines = rowsOf(cos)
    const sines = rowsOf(sin)
    const position = elementsOf(positions)
    slicedRowsOf(x).forEach((source, i) => {
      const row = source.slice() // out may be x
      y[i].set(row)
      for (let h = 0; h < numHeads; h++) {
        for (let k = 0; k < half; k++) {
          const first = h * headDim + k
          const a = row[first]
          const b = row[first + half]
          const c = cosines[position[i]][k]
          const s = inverse ? -sines[position[i]][k] : sines[position[i]][k]
          y[i][first] = a * c - b * s
          y[i][first + half] = b * c + a * s
        }
      }
    })
  },
}
