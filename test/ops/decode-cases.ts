// Rows of kernel-cases.ts for decoding over a cache: lengths that differ, column slices, a full cache, ties.
import type { KernelCase, KernelTensor } from './kernel-cases.ts'

const integers = (...values: number[]): KernelTensor => ({ shape: [values.length], dtype: 'i32', values })
const slice = (shape: number[], from: number, of: number): KernelTensor => ({ shape, columns: { from, of } })

export const decodeCases: readonly KernelCase[] = [
  {
    kernel: 'cacheAppend',
    name: 'cacheAppend of one position, the last sequence full',
    tensors: {
      keys: { shape: [3, 11, 24] },
      values: { shape: [3, 11, 24] },
      k: slice([3, 1, 24], 16, 72),
      v: slice([3, 1, 24], 40, 72),
      lengths: integers(0, 7, 11),
    },
    run: (kernels, { keys, values, k, v, lengths }) => kernels.cacheAppend(keys!, values!, k!, v!, lengths!),
  },
  {
    kernel: 'cacheAppend',
    name: 'cacheAppend of several positions',
    tensors: {
      keys: { shape: [2, 9, 10] },
      values: { shape: [2, 9, 10] },
      k: { shape: [2, 4, 10] },
      v: slice([2, 4, 10], 3, 17),
      lengths: integers(0, 5),
    },
    run: (kernels, { keys, values, k, v, lengths }) => kernels.cacheAppend(keys!, values!, k!, v!, lengths!),
  },
  ...[
    { numHeads: 8, numKeyValueHeads: 2, headDim: 16, capacity: 77, lengths: [0, 5, 76, 77] },
    { numHeads: 3, numKeyValueHeads: 3, headDim: 20, capacity: 40, lengths: [38, 1] },
    { numHeads: 4, numKeyValueHeads: 1, headDim: 64, capacity: 600, lengths: [599] },
  ].map(({ numHeads, numKeyValueHeads, headDim, capacity, lengths }): KernelCase => {
    const batch = lengths.length
    const width = numKeyValueHeads * headDim
    return {
      kernel: 'attentionCached',
      name: `attentionCached, ${numHeads} heads of ${headDim}, ${numKeyValueHeads} key-value heads`,
      tensors: {
        out: { shape: [batch, 1, numHeads * headDim], values: 'poison' },
        lse: { shape: [batch, numHeads, 1], values: 'poison', dtype: 'f32' },
        q: slice([batch, 1, numHeads * headDim], 8, numHeads * headDim + 16),
        keys: { shape: [batch, capacity, width] },
        values: { shape: [batch, capacity, width] },
        lengths: integers(...lengths),
      },
      run: (kernels, { out, lse, q, keys, values, lengths }) =>
        kernels.attentionCached(out!, lse!, q!, keys!, values!, lengths!, {
          numHeads,
          numKeyValueHeads,
          headDim,
          scale: 1 / Math.sqrt(headDim),
        }),
    }
  }),
  {
    kernel: 'greedyToken',
    name: 'greedyToken with a tie and a full sequence',
    tensors: {
      tokens: integers(1, 1, 1),
      lengths: integers(0, 12, 20),
      history: { shape: [2, 3], dtype: 'i32', values: [-1, -1, -1, -1, -1, -1] },
      made: integers(1),
      logits: { shape: [3, 5], values: [0, 2, -1, 2, 1, -3, -2, -2.5, -9, -2.25, 0, 0, 0, 0, 8] },
    },
    run: (kernels, { tokens, lengths, history, made, logits }) =>
      kernels.greedyToken(tokens!, lengths!, history!, made!, logits!, 20),
    isExact: true,
  },
  {
    kernel: 'greedyToken',
    name: 'greedyToken without a history',
    tensors: {
      tokens: integers(0, 0),
      lengths: integers(3, 4),
      history: { shape: [1, 2], dtype: 'i32', values: [-1, -1] },
      made: integers(1),
      logits: { shape: [2, 3001] },
    },
    run: (kernels, { tokens, lengths, history, made, logits }) =>
      kernels.greedyToken(tokens!, lengths!, history!, made!, logits!, 20),
    isExact: true,
  },
]
