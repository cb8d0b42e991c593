// The models that training on a GPU is measured with: GPT-2 124M, a Llama of 1.26 billion parameters, and two tiny ones
// to try the bench itself on a CPU.
import type { Recompute } from '../../src/core/tape.ts'
import type { Gpt2Config } from '../../src/models/gpt2.ts'
import type { LlamaConfig } from '../../src/models/llama.ts'

export interface GpuShape {
  readonly config: Gpt2Config | LlamaConfig
  readonly seqLen: number
  /** Rows of a step, and of a micro-batch of ours. */
  readonly batchSize: number
  readonly microBatchSize: number
  /** What ours forgets between forward and backward. */
  readonly recompute: Recompute
  /** In how many layers, from the first; default all. */
  readonly recomputeLayers?: number
}

function gpt2(vocabSize: number, hiddenSize: number, layers: number, heads: number, seqLen: number): Gpt2Config {
  return {
    modelType: 'gpt2',
    vocabSize,
    hiddenSize,
    intermediateSize: 4 * hiddenSize,
    numHiddenLayers: layers,
    numAttentionHeads: heads,
    maxPositionEmbeddings: seqLen,
    layerNormEps: 1e-5,
    activationFunction: 'gelu_new',
    initializerRange: 0.02,
  }
}

function llama(
  size: { vocabSize: number; hiddenSize: number; intermediateSize: number },
  layers: number,
  heads: number,
  seqLen: number,
): LlamaConfig {
  return {
    modelType: 'llama',
    ...size,
    numHiddenLayers: layers,
    numAttentionHeads: heads,
    numKeyValueHeads: heads,
    headDim: size.hiddenSize / heads,
    maxPositionEmbeddings: seqLen,
    rmsNormEps: 1e-5,
    ropeTheta: 10000,
    tieWordEmbeddings: false,
    initializerRange: 0.02,
  }
}

const GPT2_124M = gpt2(50304, 768, 12, 12, 1024)
const LLAMA_1B = llama({ vocabSize: 32000, hiddenSize: 2048, intermediateSize: 5632 }, 22, 16, 2048)

export const GPU_SHAPES: Readonly<Record<string, GpuShape>> = {
  '124M-16': { config: GPT2_124M, seqLen: 1024, batchSize: 16, microBatchSize: 16, recompute: 'none' },
  '124M-32': { config: GPT2_124M, seqLen: 1024, batchSize: 32, microBatchSize: 32, recompute: 'none' },
  // Nothing recomputed takes 21.0 GiB of tensors, this 18.7; two micro-batches of 32 take 12.0 and more time.
  '124M-64': {
    config: GPT2_124M,
    seqLen: 1024,
    batchSize: 64,
    microBatchSize: 64,
    recompute: 'selective',
    recomputeLayers: 4,
  },
  // Nothing recomputed takes 40.5 GiB of tensors and as much time, this 33.9; two micro-batches of 4 take 32.9 and more time.
  '1.3B-8': { config: LLAMA_1B, seqLen: 2048, batchSize: 8, microBatchSize: 8, recompute: 'selective' },
  'tiny-gpt2': { config: gpt2(997, 48, 2, 4, 32), seqLen: 32, batchSize: 4, microBatchSize: 2, recompute: 'none' },
  'tiny-llama': {
    config: llama({ vocabSize: 997, hiddenSize: 48, intermediateSize: 64 }, 2, 4, 32),
    seqLen: 32,
    batchSize: 4,
    microBatchSize: 2,
    recompute: 'none',
  },
}
