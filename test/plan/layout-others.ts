// Published speeds of Megatron-LM's recomputation paper (A100), Llama 3 405B and torchtitan (H100): facts with their sources.
import { type Architecture, architecture } from '../../src/plan/architecture.ts'
import { trainingFlopsPerToken } from '../../src/plan/flops.ts'
import { type Layout, layoutOf } from '../../src/plan/layout/layout.ts'
import { type ClusterInput, cluster } from '../../src/plan/layout/machine.ts'
import {
  LLAMA_3,
  MEGATRON_2021,
  MEGATRON_2022,
  type Software,
  TORCHTITAN,
  TORCHTITAN_EAGER,
  TORCHTITAN_FLOAT8,
  TORCHTITAN_FLOAT8_ASYNC,
} from '../../src/plan/layout/software.ts'
import { gpt } from './layout-megatron.ts'
import type { PublishedRow } from './layout-score.ts'

/**
 * Korthikanti et al. 2022 (arXiv:2205.05198), table 5 (the same eight figures in calculon-ai/calculon, llm/validation.py):
 * seconds of an iteration with full and with selective recomputation, here as teraFLOP/s of the model for each A100.
 */
export const RECOMPUTATION: readonly PublishedRow[] = (
  [
    // layers, hidden, heads, pipeline, chunks, batch, micro-batch, full, selective
    ['22B', 48, 6144, 64, 1, 1, 4, 4, 1.42, 1.1],
    ['175B', 96, 12288, 96, 8, 3, 64, 1, 18.13, 13.75],
    ['530B', 105, 20480, 128, 35, 3, 280, 1, 49.05, 37.83],
    ['1T', 128, 25600, 160, 64, 1, 512, 1, 94.42, 71.49],
  ] as const
).flatMap(([name, layers, hidden, heads, p, chunks, batchSize, microBatchSize, full, selective]) =>
  (['full', 'selective'] as const).map((recompute): PublishedRow => {
    const model = gpt(name, layers, hidden, heads)
    const devices = 8 * p
    const value = (seconds: number): number =>
      (batchSize * 2048 * trainingFlopsPerToken(model, 2048, { mask: 'full' }).model) / seconds / devices / 1e12
    return {
      name: `recomputation, ${name} ${recompute}`,
      model,
      layout: layoutOf({
        tensorParallel: 8,
        pipelineParallel: p,
        chunks,
        batchSize,
        microBatchSize,
        seqLen: 2048,
        recompute,
      }),
      on: cluster({ device: 'A100 80GB', devices }),
      software: recompute === 'full' ? MEGATRON_2021 : MEGATRON_2022,
      published: value(recompute === 'full' ? full : selective),
      value,
    }
  }),
)

function llama(name: string, layers: number, hidden: number, heads: number, width: number): Architecture {
  return architecture({
    name,
    vocabSize: 128256,
    hiddenSize: hidden,
    numHiddenLayers: layers,
    numAttentionHeads: heads,
    numKeyValueHeads: 8,
    intermediateSize: width,
    maxPositionEmbeddings: 8192,
  })
}

export const LLAMA_8B = llama('Llama 3.1 8B', 32, 4096, 32, 14336)
export const LLAMA_70B = llama('Llama 3.1 70B', 80, 8192, 64, 28672)
export const LLAMA_405B = llama('Llama 3.1 405B', 126, 16384, 128, 53248)

/**
 * Llama 3 (arXiv:2407.21783), table 4: TFLOP/s for each H100. One layer in a chunk, the first chunk only the embedding and the
 * last only the head (section 3.3.2 takes a layer from each); attention counted under its causal mask.
 */
export const LLAMA_3_ROWS: readonly PublishedRow[] = (
  [
    [8192, 1, 64, 8192, 32, 430],
    [16384, 1, 128, 8192, 16, 400],
    [16384, 16, 8, 131072, 16, 380],
  ] as const
).map(([devices, contextParallel, dataParallel, seqLen, perRank, published]) => {
  const layout = layoutOf({
    tensorParallel: 8,
    contextParallel,
    pipelineParallel: 16,
    dataParallel,
    // Gradients of all micro-batches are summed before they are scattered (section 3.3.2), as in ZeRO 1.
    zeroStage: 1,
    chunks: 8,
    batchSize: perRank * dataParallel,
    seqLen,
  })
  const flops = layout.batchSize * seqLen * trainingFlopsPerToken(LLAMA_405B, seqLen).model
  return {
    name: `Llama 3 405B on ${devices}, ${seqLen} tokens`,
    model: LLAMA_405B,
    layout,
    on: cluster({ device: 'H100 SXM', devices }),
    software: LLAMA_3,
    published,
    value: (seconds: number) => flops / seconds / devices / 1e12,
  }
})

/** torchtitan's machines: H100 with HBM2e of 2.4 TB/s and 96 GB, limited to 500 of 700 W. */
function grandTeton(devices: number): ClusterInput {
  return { device: 'H100 SXM', devices, memoryBandwidth: 2.4e12, memoryBytes: 96e9, powerShare: 500 / 700 }
}

interface TitanRow {
  name: string
  model: Architecture
  devices: number
  layout: Partial<Layout> & { batchSize: number }
  software: Software
  published: number
}

function titan({ name, model, devices, layout, software, published }: TitanRow): PublishedRow {
  const complete = layoutOf({ seqLen: 8192, ...layout })
  const tokens = complete.batchSize * complete.seqLen
  return {
    name: `torchtitan, ${name}`,
    model,
    layout: complete,
    on: cluster(grandTeton(devices)),
    software,
    published,
    value: (seconds) => tokens / seconds / devices,
  }
}

/**
 * torchtitan, tokens per second and device: the tables of pytorch/torchtitan benchmarks/llama3_h100_202412_torchtitan.md,
 * which are those of arXiv:2410.06511 run again on the same machines. Pipelines: as many micro-batches as ranks, torchtitan's
 * default; the tables do not say.
 */
export const TORCHTITAN_8B: readonly PublishedRow[] = [8, 128].flatMap((devices) =>
  [TORCHTITAN_EAGER, TORCHTITAN, TORCHTITAN_FLOAT8].map((software, index) =>
    titan({
      name: `8B on ${devices}, ${['eager', 'compiled', 'compiled, Float8'][index]}`,
      model: LLAMA_8B,
      devices,
      layout: {
        dataParallel: devices,
        zeroStage: 3,
        microBatchSize: 2,
        batchSize: 2 * devices,
        recompute: 'selective',
      },
      software,
      published: (devices === 8 ? [5762, 6667, 8532] : [5605, 6514, 8380])[index]!,
    }),
  ),
)

export const TORCHTITAN_70B: readonly PublishedRow[] = [TORCHTITAN_FLOAT8, TORCHTITAN_FLOAT8_ASYNC].map(
  (software, index) =>
    titan({
      name: `70B on 256${index === 1 ? ', async TP' : ''}`,
      model: LLAMA_70B,
      devices: 256,
      layout: {
        dataParallel: 32,
        tensorParallel: 8,
        zeroStage: 3,
        microBatchSize: 16,
        batchSize: 512,
        recompute: 'full',
      },
      software,
      published: [829, 876][index]!,
    }),
)

export const TORCHTITAN_405B: readonly PublishedRow[] = [1, 2].map((chunks) =>
  titan({
    name: `405B on 512, ${chunks === 1 ? '1F1B' : 'interleaved'}`,
    model: LLAMA_405B,
    devices: 512,
    layout: {
      dataParallel: 8,
      tensorParallel: 8,
      pipelineParallel: 8,
      chunks,
      // Pipelines of PyTorch scatter gradients after the last micro-batch, as in ZeRO 1.
      zeroStage: 1,
      microBatchSize: 4,
      batchSize: 256,
      recompute: 'full',
    },
    software: TORCHTITAN_FLOAT8_ASYNC,
    published: chunks === 1 ? 100 : 128,
  }),
)
