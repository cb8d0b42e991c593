// Attention and its gradients as plain float64 loops over contiguous arrays, straight from the definition: the whole
// score row of a query exists at once. What the native kernels are compared with.

export interface AttentionCase {
  B: number
  H: number
  G: number
  Tq: number
  Tk: number
  K: number
  isCausal: boolean
  window: number
  /** [B, Tk] */
  docStart?: Int32Array
  scale: number
}

export interface Gradients {
  dq: Float64Array
  dk: Float64Array
  dv: Float64Array
}

/** Whether query i of sequence b may see key j. */
function sees(c: AttentionCase, b: number, i: number, j: number): boolean {
  const own = i + c.Tk - c.Tq
  if (c.isCausal && j > own) return false
  if (c.window > 0 && j <= own - c.window) return false
  return c.docStart === undefined || j >= c.docStart[b * c.Tk + i]!
}

function dot(a: ArrayLike<number>, at: number, b: ArrayLike<number>, bt: number, n: number): number {
  let sum = 0
  for (let x = 0; x < n; x++) sum += a[at + x]! * b[bt + x]!
  return sum
}

/** q, out [B, Tq, H*K]; k, v [B, Tk, G*K]; lse [B, H, Tq]; probabilities [B, H, Tq, Tk]. */
export function attentionReference(
  c: AttentionCase,
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
): { out: Float64Array; lse: Float64Array; probabilities: Float64Array } {
  const { B, H, G, Tq, Tk, K } = c
  const out = new Float64Array(B * Tq * H * K)
  const lse = new Float64Array(B * H * Tq).fill(-Infinity)
  const probabilities = new Float64Array(B * H * Tq * Tk)
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const g = Math.floor((h * G) / H)
      for (let i = 0; i < Tq; i++) {
        const row = (b * H + h) * Tq + i
        const query = ((b * Tq + i) * H + h) * K
        const scores = new Float64Array(Tk).fill(-Infinity)
        for (let j = 0; j < Tk; j++) {
          if (sees(c, b, i, j)) scores[j] = c.scale * dot(q, query, k, ((b * Tk + j) * G + g) * K, K)
        }
        const top = scores.reduce((a, s) => Math.max(a, s), -Infinity)
        if (top === -Infinity) continue
        const sum = scores.reduce((a, s) => a + Math.exp(s - top), 0)
        lse[row] = top + Math.log(sum)
        for (let j = 0; j < Tk; j++) {
          const p = Math.exp(scores[j]! - lse[row]!)
          probabilities[row * Tk + j] = p
          for (let x = 0; x < K; x++) out[query + x]! += p * v[((b * Tk + j) * G + g) * K + x]!
        }
      }
    }
  }
  return { out, lse, probabilities }
}

/** Gradients of sum(dOut * out). */
export function attentionBackwardReference(
  c: AttentionCase,
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  dOut: ArrayLike<number>,
): Gradients {
  const { B, H, G, Tq, Tk, K } = c
  const { out, probabilities } = attentionReference(c, q, k, v)
  const dq = new Float64Array(B * Tq * H * K)
  const dk = new Float64Array(B * Tk * G * K)
  const dv = new Float64Array(B * Tk * G * K)
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const g = Math.floor((h * G) / H)
      for (let i = 0; i < Tq; i++) {
        const query = ((b * Tq + i) * H + h) * K
        const delta = dot(dOut, query, out, query, K)
        for (let j = 0; j < Tk; j++) {
          const p = probabilities[((b * H + h) * Tq + i) * Tk + j]!
          if (p === 0) continue
          const key = ((b * Tk + j) * G + g) * K
          const ds = c.scale * p * (dot(dOut, query, v, key, K) - delta)
          for (let x = 0; x < K; x++) {
            dq[query + x]! += ds * k[key + x]!
            dk[key + x]! += ds * q[query + x]!
            dv[key + x]! += p * dOut[query + x]!
          }
        }
      }
    }
  }
  return { dq, dk, dv }
}
