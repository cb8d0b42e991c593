// The training shapes that processors are measured on, and one of them as a model with a batch of random tokens. What
// `bench step` and the scripts in bench/ time.
import type { Device } from '../core/device.ts'
import { emptyBatch, type HostBatch } from '../data/host-batch.ts'
import { DropoutStreams } from '../models/decoder.ts'
import { Gpt2, type Gpt2Config } from '../models/gpt2.ts'
import { materialize, parameterCount } from '../nn/module.ts'
import { openMeta } from '../open.ts'
import { adamw } from '../optim/adam.ts'
import { Optimizer } from '../optim/optimizer.ts'
import { planStep } from './plan.ts'
import { TrainStep } from './step.ts'

/** GPT-2 blocks, exact GELU, tied head. */
export interface CpuShape {
  vocabSize: number
  hiddenSize: number
  numHiddenLayers: number
  numAttentionHeads: number
  seqLen: number
  batchSize: number
  /** Steps of a pass: a few seconds' worth. */
  steps: number
}

export const CPU_SHAPES: Readonly<Record<string, CpuShape>> = {
  char: {
    vocabSize: 65,
    hiddenSize: 128,
    numHiddenLayers: 4,
    numAttentionHeads: 4,
    seqLen: 64,
    batchSize: 12,
    steps: 40,
  },
  '10M': {
    vocabSize: 8192,
    hiddenSize: 256,
    numHiddenLayers: 6,
    numAttentionHeads: 8,
    seqLen: 256,
    batchSize: 8,
    steps: 6,
  },
  '124M': {
    vocabSize: 50304,
    hiddenSize: 768,
    numHiddenLayers: 12,
    numAttentionHeads: 12,
    seqLen: 256,
    batchSize: 2,
    steps: 3,
  },
}

export const BENCH_LR = 3e-4

export interface ShapeRun {
  model: Gpt2
  batch: HostBatch
  tokensPerStep: number
  parameterCount: number
  /** Model FLOPs of a step: (6 P + 12 L d T) a token, the position table left out of P. */
  flopsPerStep: number
  /** One optimizer step (AdamW, no clipping) on the batch. @returns the loss before it, nats per token */
  step(): Promise<number>
}

/** GPT-2 of that shape. */
export function shapeConfig({
  vocabSize,
  hiddenSize,
  numHiddenLayers,
  numAttentionHeads,
  seqLen,
}: CpuShape): Gpt2Config {
  return {
    modelType: 'gpt2',
    vocabSize,
    hiddenSize,
    intermediateSize: 4 * hiddenSize,
    numHiddenLayers,
    numAttentionHeads,
    maxPositionEmbeddings: seqLen,
    layerNormEps: 1e-5,
    activationFunction: 'gelu',
    initializerRange: 0.02,
  }
}

/** The shape's model with random weights and one batch, both decided by `seed`. */
export async function openShape(device: Device, shape: CpuShape, seed = 1): Promise<ShapeRun> {
  const { vocabSize, hiddenSize, numHiddenLayers, seqLen, batchSize } = shape
  const config = shapeConfig(shape)
  const options = { recompute: 'none' as const, dropout: 0, streams: new DropoutStreams(seed) }
  const micro = { microBatchSize: batchSize, seqLen }
  const plan = planStep(new Gpt2(config), await openMeta(device), micro, adamw(), options)
  const model = new Gpt2(config)
  const optimizer = new Optimizer(materialize(model, device, { seed }), adamw())
  const trainStep = new TrainStep(model, optimizer, micro, plan, options)
  const tokensPerStep = batchSize * seqLen
  const batch = emptyBatch(batchSize, seqLen)
  let state = seed
  const nextToken = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * vocabSize)
  }
  for (let i = 0; i < tokensPerStep; i++) {
    batch.tokens[i] = nextToken()
    batch.targets[i] = nextToken()
    batch.positions[i] = i % seqLen
  }
  const trained = parameterCount(model) - seqLen * hiddenSize
  let stepsDone = 0
  return {
    model,
    batch,
    tokensPerStep,
    parameterCount: trained,
    flopsPerStep: (6 * trained + 12 * numHiddenLayers * hiddenSize * seqLen) * tokensPerStep,
    step: () => trainStep.run([batch], tokensPerStep, { lr: BENCH_LR, step: ++stepsDone, gradClip: 0 }),
  }
}

/** The median of the fastest quarter: the machine's undisturbed speed, and not one lucky step. */
export function undisturbed(times: readonly number[]): number {
  return [...times].sort((a, b) => a - b)[Math.floor(times.length / 8)]!
}
