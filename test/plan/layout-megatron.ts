// Speeds that Megatron-LM's paper (Narayanan et al. 2021, arXiv:2104.04473) published for its layouts, in teraFLOP/s for each
// A100 80GB: facts, with the settings of NVIDIA/Megatron-LM examples/sc21/run_*.sh where the paper does not say them.
import { type Architecture, architecture } from '../../src/plan/architecture.ts'
import { type Layout, layoutOf } from '../../src/plan/layout/layout.ts'
import { cluster } from '../../src/plan/layout/machine.ts'
import { MEGATRON_2021, MEGATRON_2021_TORCH_DDP, type Software, ZERO3_2021 } from '../../src/plan/layout/software.ts'
import type { PublishedRow } from './layout-score.ts'

const VOCABULARY = 51200
const SEQ_LEN = 2048

export function gpt(name: string, layers: number, hidden: number, heads: number): Architecture {
  return architecture({
    name,
    vocabSize: VOCABULARY,
    hiddenSize: hidden,
    numHiddenLayers: layers,
    numAttentionHeads: heads,
    intermediateSize: 4 * hidden,
    maxPositionEmbeddings: SEQ_LEN,
    isGated: false,
    tieWordEmbeddings: true,
    positions: 'learned',
    norm: 'layernorm',
    attentionBias: 'all',
    hasMlpBias: true,
  })
}

/** The paper's equation 3: 96 B s l h^2 (1 + s / 6h + V / 16lh), with recomputation and the whole square of attention. */
function megatronFlops({ numHiddenLayers: l, hiddenSize: h }: Architecture, batch: number): number {
  return 96 * batch * SEQ_LEN * l * h * h * (1 + SEQ_LEN / (6 * h) + VOCABULARY / (16 * l * h))
}

interface Point {
  model: Architecture
  layout: Partial<Layout> & { batchSize: number }
  published: number
  name: string
  software?: Software
  isFitted?: boolean
}

function row({ name, model, layout, published, software = MEGATRON_2021, isFitted = false }: Point): PublishedRow {
  const complete = layoutOf({ seqLen: SEQ_LEN, recompute: 'full', ...layout })
  const devices = complete.dataParallel * complete.tensorParallel * complete.pipelineParallel
  const flops = megatronFlops(model, complete.batchSize)
  const value = (seconds: number): number => flops / seconds / devices / 1e12
  const on = cluster({ device: 'A100 80GB', devices })
  return { name, model, layout: complete, on, software, published, value, isFitted }
}

/** Table 1. Four rows, the ends and two between them, were used to set constants. */
export const TABLE_1: readonly PublishedRow[] = (
  [
    // name, layers, hidden, heads, tensor, pipeline, devices, batch, micro-batch, chunks, published, fitted
    ['1.7B', 24, 2304, 24, 1, 1, 32, 512, 16, 1, 137, true],
    ['3.6B', 30, 3072, 32, 2, 1, 64, 512, 16, 1, 138, false],
    ['7.5B', 36, 4096, 32, 4, 1, 128, 512, 16, 1, 142, false],
    ['18.4B', 40, 6144, 48, 8, 1, 256, 1024, 8, 1, 135, true],
    ['39.1B', 48, 8192, 64, 8, 2, 512, 1536, 4, 1, 138, false],
    ['76.1B', 60, 10240, 80, 8, 4, 1024, 1792, 2, 3, 140, false],
    ['145.6B', 80, 12288, 96, 8, 8, 1536, 2304, 2, 2, 148, true],
    ['310.1B', 96, 16384, 128, 8, 16, 1920, 2160, 1, 2, 155, false],
    ['529.6B', 105, 20480, 128, 8, 35, 2520, 2520, 1, 3, 163, false],
    ['1008.0B', 128, 25600, 160, 8, 64, 3072, 3072, 1, 1, 163, true],
  ] as const
).map(([name, layers, hidden, heads, t, p, devices, batchSize, microBatchSize, chunks, published, isFitted]) =>
  row({
    name: `table 1, ${name}`,
    model: gpt(name, layers, hidden, heads),
    layout: {
      tensorParallel: t,
      pipelineParallel: p,
      dataParallel: devices / t / p,
      batchSize,
      microBatchSize,
      chunks,
    },
    software: p === 1 ? MEGATRON_2021_TORCH_DDP : MEGATRON_2021,
    published,
    isFitted,
  }),
)

const GPT_175B = gpt('175B', 96, 12288, 96)
const GPT_530B = gpt('530B', 105, 20480, 128)

/** Table 2, tensor, pipeline and data parallel: micro-batch 1, not said to be interleaved. */
export const TABLE_2_MODEL_PARALLEL: readonly PublishedRow[] = (
  [
    [GPT_175B, 12, 1536, 384, 153],
    [GPT_175B, 12, 1536, 768, 149],
    [GPT_175B, 12, 1536, 1536, 141],
    [GPT_530B, 35, 2240, 560, 171],
    [GPT_530B, 35, 2240, 1120, 167],
    [GPT_530B, 35, 2240, 2240, 159],
  ] as const
).map(([model, p, batchSize, devices, published]) =>
  row({
    name: `table 2, ${model.name} on ${devices}`,
    model,
    layout: { tensorParallel: 8, pipelineParallel: p, dataParallel: devices / 8 / p, batchSize },
    published,
  }),
)

/** Table 2, ZeRO-3 without model parallelism. */
export const TABLE_2_ZERO_3: readonly PublishedRow[] = (
  [
    [GPT_175B, 1536, 384, 4, 144],
    [GPT_175B, 1536, 768, 2, 88],
    [GPT_175B, 1536, 1536, 1, 44],
    [GPT_530B, 2560, 640, 4, 138],
    [GPT_530B, 2240, 1120, 2, 98],
    [GPT_530B, 2240, 2240, 1, 48],
  ] as const
).map(([model, batchSize, devices, microBatchSize, published]) =>
  row({
    name: `table 2, ${model.name} on ${devices}, ZeRO-3`,
    model,
    layout: { dataParallel: devices, zeroStage: 3, batchSize, microBatchSize },
    software: ZERO3_2021,
    published,
  }),
)

type SweepPoint = readonly [Partial<Layout> & { batchSize: number }, number]

function figure(
  name: string,
  model: Architecture,
  base: Partial<Layout>,
  points: readonly SweepPoint[],
  software?: Software,
) {
  const label: Record<string, string> = {
    pipelineParallel: 'p',
    tensorParallel: 't',
    dataParallel: 'd',
    microBatchSize: 'b',
    batchSize: 'B',
  }
  return points.map(([layout, published]) =>
    row({
      name: `${name} ${Object.entries(layout)
        .map(([key, value]) => `${label[key]}=${value}`)
        .join(' ')}`,
      model,
      layout: { ...base, ...layout },
      published,
      ...(software === undefined ? {} : { software }),
    }),
  )
}

const byBatch = (values: readonly number[]): SweepPoint[] =>
  values.map((value, index) => [{ batchSize: 12 * (index + 1) }, value])

// The figures are plots: their values are read from them, to about 3 teraFLOP/s.

/** Figure 11: a model that grows with the pipeline. */
export const FIGURE_11: readonly PublishedRow[] = [
  ...figure('figure 11', gpt('15B', 3, 20480, 128), { tensorParallel: 8 }, [
    [{ pipelineParallel: 1, batchSize: 8 }, 163],
    [{ pipelineParallel: 1, batchSize: 128 }, 178],
  ]),
  ...figure('figure 11', gpt('121B', 24, 20480, 128), { tensorParallel: 8 }, [
    [{ pipelineParallel: 8, batchSize: 8 }, 88],
    [{ pipelineParallel: 8, batchSize: 128 }, 161],
  ]),
]

const ON_12 = { tensorParallel: 8, pipelineParallel: 12 }
/** Figure 12: 175 B on 96 devices, by batch. */
export const FIGURE_12_PLAIN = figure('figure 12', GPT_175B, ON_12, byBatch([82, 109, 122, 130, 135]))
export const FIGURE_12_INTERLEAVED = figure(
  'figure 12 interleaved',
  GPT_175B,
  { ...ON_12, chunks: 4 },
  byBatch([119, 134, 141.5, 143.5, 146.5]),
)
/** Figure 18: the interleaved rows without scattering what is sent over the tensor-parallel ranks' adapters. */
export const FIGURE_18 = figure('figure 18', GPT_175B, { ...ON_12, chunks: 4 }, byBatch([107.5, 120, 127, 130, 131]), {
  ...MEGATRON_2021,
  scattersPipeline: false,
})

/** Figure 13: tensor against pipeline parallelism on 64 devices. */
export const FIGURE_13: readonly PublishedRow[] = figure('figure 13', gpt('162.2B', 32, 20480, 128), {}, [
  [{ pipelineParallel: 2, tensorParallel: 32, batchSize: 128 }, 108],
  [{ pipelineParallel: 8, tensorParallel: 8, batchSize: 128 }, 165.5],
  [{ pipelineParallel: 8, tensorParallel: 8, batchSize: 32 }, 142],
  [{ pipelineParallel: 32, tensorParallel: 2, batchSize: 128 }, 147],
])

const GPT_5_9B = gpt('5.9B', 32, 3840, 32)
/** Figure 14: pipeline against data parallelism. */
export const FIGURE_14: readonly PublishedRow[] = figure('figure 14', GPT_5_9B, {}, [
  [{ pipelineParallel: 2, dataParallel: 32, batchSize: 32 }, 62],
  [{ pipelineParallel: 32, dataParallel: 2, batchSize: 32 }, 43.5],
  [{ pipelineParallel: 2, dataParallel: 32, batchSize: 512 }, 149],
  [{ pipelineParallel: 32, dataParallel: 2, batchSize: 512 }, 89],
])

/** Figure 15: tensor against data parallelism. */
export const FIGURE_15: readonly PublishedRow[] = figure('figure 15', GPT_5_9B, {}, [
  [{ tensorParallel: 2, dataParallel: 32, batchSize: 32 }, 56.5],
  [{ tensorParallel: 2, dataParallel: 32, batchSize: 128 }, 103],
  [{ tensorParallel: 2, dataParallel: 32, batchSize: 512 }, 127.5],
  [{ tensorParallel: 32, dataParallel: 2, batchSize: 128 }, 22],
  [{ tensorParallel: 32, dataParallel: 2, batchSize: 512 }, 22],
])

/** Figure 16: the size of micro-batches. */
export const FIGURE_16: readonly PublishedRow[] = figure(
  'figure 16',
  gpt('91B', 32, 15360, 128),
  { tensorParallel: 8, pipelineParallel: 8 },
  [
    [{ microBatchSize: 1, batchSize: 128 }, 154],
    [{ microBatchSize: 2, batchSize: 128 }, 157],
    [{ microBatchSize: 4, batchSize: 128 }, 140],
    [{ microBatchSize: 8, batchSize: 128 }, 121],
    [{ microBatchSize: 1, batchSize: 512 }, 161.5],
    [{ microBatchSize: 2, batchSize: 512 }, 172],
    [{ microBatchSize: 8, batchSize: 512 }, 153.5],
  ],
)
