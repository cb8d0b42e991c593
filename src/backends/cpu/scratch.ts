// How much memory the kernels of a training step keep for themselves between calls, at most: what they ask ty_scratch and
// ty_shared_scratch for (native/context.h), computed from the shapes as the kernels do. A plan counts it; nothing here
// allocates. test/cpu/scratch.test.ts holds it against what the kernels really took.
import type { AttentionShape } from '../../core/device.ts'

/** Packed panels of B and copied rows of A in gemm-blocked.h: kBytesB and kBytesA, and what may reach over each. */
const PRODUCT_BYTES = (6 << 20) + (1 << 20) + 2 * 128 * 1024
/** Sizes of attention-backward.cc and attention-tiles.h. */
const TILE = 64
const KEY_BLOCK = 256
const LEAST_TASKS = 16
const PARTIAL_FLOATS = 16 << 20
const WIDEST_VECTOR = 16
/** Blocks grow in steps of this. */
const STEP_BYTES = 64 * 1024

/** @returns bytes, over all threads */
export function scratchBytes(shape: AttentionShape, threads: number): number {
  const shared = Math.max(PRODUCT_BYTES, partialGradientBytes(shape))
  return rounded(shared) + threads * rounded(attentionTaskBytes(shape.headDim))
}

/** Partial dQ of all ranges of keys, where the backward pass of attention cuts them into ranges: rangeKeys(). */
function partialGradientBytes({ microBatchSize, seqLen, ...shape }: AttentionShape): number {
  const size = microBatchSize * seqLen * shape.numAttentionHeads * shape.headDim
  const wanted = Math.ceil(LEAST_TASKS / (microBatchSize * shape.numKeyValueHeads))
  const affordable = Math.floor(PARTIAL_FLOATS / size)
  const most = Math.max(1, Math.min(wanted, affordable, Math.ceil(seqLen / TILE)))
  const keys = Math.ceil(Math.ceil(seqLen / most) / TILE) * TILE
  const ranges = Math.ceil(seqLen / keys)
  return ranges > 1 ? ranges * size * 4 : 0
}

/** Workspace of one task of that pass. */
function attentionTaskBytes(headDim: number): number {
  const padded = Math.ceil(headDim / WIDEST_VECTOR) * WIDEST_VECTOR
  return ((4 * KEY_BLOCK + 3 * TILE) * padded + 2 * headDim * TILE + 2 * TILE * TILE + 2 * TILE) * 4
}

function rounded(bytes: number): number {
  return Math.ceil(bytes / STEP_BYTES) * STEP_BYTES
}
