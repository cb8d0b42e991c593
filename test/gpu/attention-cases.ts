// Rows for attention at the head sizes and tile borders that models have: what the fast kernels of a GPU are chosen for.
import { attention } from '../../src/ops/attention.ts'
import type { OpCase } from '../ops/harness.ts'
import type { InputSpec } from '../ops/inputs.ts'

interface Shape {
  readonly B?: number
  readonly Tq: number
  readonly Tk?: number
  readonly H: number
  readonly G?: number
  readonly K: number
  readonly isCausal?: boolean
  readonly window?: number
  /** First positions of the documents of every row. */
  readonly documents?: readonly number[]
  /** q, k and v are columns of one tensor. */
  readonly isFused?: boolean
}

const SHAPES: readonly Shape[] = [
  { Tq: 257, H: 2, K: 64 },
  { B: 2, Tq: 128, H: 2, K: 64 },
  { Tq: 193, H: 4, G: 2, K: 128, isFused: true },
  { Tq: 256, H: 2, K: 128 },
  { Tq: 130, Tk: 301, H: 2, K: 64, isCausal: false },
  { Tq: 65, Tk: 321, H: 2, G: 1, K: 128 },
  { Tq: 300, H: 2, K: 64, window: 70 },
  { Tq: 200, H: 2, G: 1, K: 128, window: 64 },
  { B: 2, Tq: 190, H: 2, K: 64, documents: [0, 1, 64, 131], isFused: true },
  { Tq: 260, H: 2, K: 128, documents: [0, 128, 129] },
  { Tq: 90, H: 2, K: 32 },
  { Tq: 100, H: 2, G: 1, K: 96 },
  { Tq: 100, H: 1, K: 192 },
  { Tq: 100, H: 2, G: 1, K: 256 },
  { Tq: 70, H: 2, K: 80, isFused: true },
  { B: 3, Tq: 1, Tk: 513, H: 4, G: 2, K: 64 },
  { Tq: 1, Tk: 1025, H: 8, G: 1, K: 128 },
  { Tq: 5, Tk: 260, H: 2, K: 128 },
]

function caseOf(shape: Shape): OpCase {
  const { B = 1, Tq, Tk = Tq, H, G = H, K, isCausal = true, window = 0, documents, isFused = false } = shape
  const activation = (rows: number, columns: number): InputSpec => ({ kind: 'activation', shape: [B, rows, columns] })
  const inputs: Record<string, InputSpec> = isFused
    ? { qkv: activation(Tq, (H + 2 * G) * K) }
    : { q: activation(Tq, H * K), k: activation(Tk, G * K), v: activation(Tk, G * K) }
  if (documents !== undefined) {
    const row = Array.from({ length: Tq }, (_, i) => documents.findLast((start) => start <= i)!)
    inputs.docStart = { kind: 'integers', shape: [B, Tq], values: Array.from({ length: B }, () => row).flat() }
  }
  return {
    op: 'attention',
    name: `attention ${JSON.stringify(shape).replaceAll(/["{}]/g, '').replaceAll(',', ' ')}`,
    inputs,
    run({ q, k, v, qkv, docStart }) {
      const options = { numHeads: H, numKeyValueHeads: G, isCausal, window, docStart }
      if (qkv === undefined) return attention(q!, k!, v!, options)
      return attention(qkv.columns(0, H * K), qkv.columns(H * K, G * K), qkv.columns((H + G) * K, G * K), options)
    },
  }
}

export const attentionCases: readonly OpCase[] = SHAPES.map(caseOf)
