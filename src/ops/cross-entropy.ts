// crossEntropy: the language-model loss straight from the last hidden states. The logits exist only a chunk of rows at
// a time, and loss and gradients come out of one pass: the loader knows the global number of trained tokens before
// the forward, so the scale of the gradient is known when the logits are.
import { emptyTensor } from '../core/allocator.ts'
import type { Device } from '../core/device.ts'
import type { Op } from '../core/op.ts'
import { Parameter } from '../core/parameter.ts'
import { apply, currentTape } from '../core/tape.ts'
import { expectShape, type Tensor } from '../core/tensor.ts'
import { cost, expectColumns, intoParameter, NO_COST } from './common.ts'

type Inputs = { hidden: Tensor; weight: Tensor; targets: Tensor; scalars: Tensor }
type Outputs = { loss: Tensor; tokenLosses: Tensor; dHidden: Tensor | undefined }
type Attributes = { wantsGradient: boolean }

/** A chunk of logits has not fewer rows than this: the weight is read once for every chunk. */
const MIN_CHUNK_ROWS = 256

/** Rows of logits that exist at once, about as many elements as the device wants: equal chunks, multiples of 16 rows. */
export function chunkRows(rows: number, vocabSize: number, device: Device): number {
  const most = Math.max(MIN_CHUNK_ROWS, Math.floor(device.logitsChunkElements / vocabSize))
  const chunks = Math.ceil(rows / most)
  return Math.min(rows, Math.ceil(rows / chunks / 16) * 16)
}

export const crossEntropyOp: Op<Inputs, Outputs, Attributes> = {
  id: 'crossEntropy',
  weights: ['weight'],
  outputs: ({ hidden }, { wantsGradient }) => ({
    loss: { shape: [1], dtype: 'f64' },
    tokenLosses: { shape: [hidden.rowCount], dtype: 'f32' },
    ...(wantsGradient && { dHidden: { shape: hidden.shape } }),
  }),
  forward(kernels, { hidden, weight, targets, scalars }, { loss, tokenLosses, dHidden }, { wantsGradient }) {
    const rows = hidden.rowCount
    const vocabSize = weight.shape[0]!
    const h = hidden.reshape(rows, hidden.columnCount)
    const dh = dHidden?.reshape(rows, hidden.columnCount)
    const t = targets.reshape(rows)
    const step = chunkRows(rows, vocabSize, hidden.device)
    const logits = emptyTensor(hidden.device, [step, vocabSize], hidden.dtype, 'workspace')
    for (let from = 0; from < rows; from += step) {
      const count = Math.min(step, rows - from)
      const chunk = logits.slice(0, count)
      const hiddenChunk = h.slice(from, count)
      kernels.matmul(chunk, hiddenChunk, weight, { transposeB: true })
      kernels.softmaxCrossEntropy(
        tokenLosses.slice(from, count),
        chunk,
        t.slice(from, count),
        wantsGradient ? scalars : undefined,
      )
      if (!wantsGradient) continue
      if (dh !== undefined) kernels.matmul(dh.slice(from, count), chunk, weight, {})
      intoParameter(weight, (dWeight, accumulate) =>
        kernels.matmul(dWeight, chunk, hiddenChunk, { transposeA: true, accumulate }),
      )
    }
    kernels.scaledSum(loss, tokenLosses, scalars, false)
  },
  savedForInput: ['dHidden'],
  savedForWeight: [],
  backwardInput({ inputs, outputs }, gradients) {
    if (outputs.dHidden !== undefined) gradients.pass(inputs.hidden, outputs.dHidden)
  },
  isCheap: false,
  cost({ hidden, weight, targets }, { wantsGradient }) {
    const product = 2 * hidden.size * weight.shape[0]!
    const trained = weight instanceof Parameter && weight.requiresGrad
    const passes = wantsGradient ? (trained ? 3 : 2) : 1
    const chunks = Math.ceil(hidden.rowCount / chunkRows(hidden.rowCount, weight.shape[0]!, hidden.device))
    const logitsBytes = hidden.rowCount * weight.shape[0]! * hidden.device.itemBytes(hidden.dtype)
    const weightBytes = chunks * passes * cost(0, weight).bytes
    return {
      forward: {
        flops: passes * product,
        bytes: cost(0, hidden, targets).bytes + weightBytes + (passes + 2) * logitsBytes,
      },
      backwardInput: NO_COST,
      backwardWeight: NO_COST,
    }
  },
}

/**
 * loss = scale * sum over rows with a target of ( logsumexp(h W^T) - (h W^T)[target] ).
 * Forward and backward are one pass: with a recording tape this also computes dHidden and adds dWeight.
 * @param hidden   [.., D] float, after the final norm
 * @param weight   [V, D], the head (or the tied embedding)
 * @param targets  [..] i32, -1 where nothing is trained
 * @param scalars  f64 [8]: slot lossScale = 1 / trained tokens of the *global* batch (core/kernels.ts, SCALAR)
 * @returns        loss f64 [1] (this micro-batch's share of the batch mean) and tokenLosses [rows], unscaled, in nats
 * @throws ShapeError if widths or counts do not fit
 */
export function crossEntropy(
  hidden: Tensor,
  weight: Parameter,
  targets: Tensor,
  scalars: Tensor,
): { loss: Tensor; tokenLosses: Tensor } {
  expectColumns('crossEntropy', hidden, weight.columnCount, 'to match the head')
  expectShape('crossEntropy', 'targets', targets, hidden.shape.slice(0, -1), 'to match hidden')
  const tape = currentTape()
  const wantsGradient = tape?.isRecording === true && (tape.needsGradient(hidden.base ?? hidden) || weight.requiresGrad)
  return apply(crossEntropyOp, hidden.device, { hidden, weight, targets, scalars }, { wantsGradient })
}
