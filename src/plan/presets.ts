// Published models as rows: the sizes of their papers or config.json, and what was said of their training. Facts only;
// what follows from them is computed elsewhere.
import { didYouMean } from '../config/suggest.ts'
import { ConfigError } from '../core/errors.ts'
import { type Architecture, type ArchitectureInput, architecture, GPT_STYLE } from './architecture.ts'
import { squash } from './spelling.ts'

export interface PublishedModel {
  readonly architecture: Architecture
  readonly aliases: readonly string[]
  /** Tokens of pre-training. */
  readonly tokens?: number
  /** Context of pre-training. */
  readonly seqLen: number
  /** Parameters as the source gives them. */
  readonly reportedParameters: number
  /** Training FLOPs as the source gives them, where it does. */
  readonly reportedFlops?: number
  readonly source: string
}

type Sizes = readonly [layers: number, hidden: number, heads: number]
type Facts = Omit<PublishedModel, 'architecture' | 'aliases'> & { readonly aliases?: readonly string[] }

const M = 1e6
const B = 1e9
const T = 1e12

function published(model: ArchitectureInput, { aliases = [], ...facts }: Facts): PublishedModel {
  return { architecture: architecture({ maxPositionEmbeddings: facts.seqLen, ...model }), aliases, ...facts }
}

/** An MLP of four times the width. */
function gpt(name: string, [layers, hidden, heads]: Sizes, more: Partial<ArchitectureInput>, facts: Facts) {
  const sizes = { numHiddenLayers: layers, hiddenSize: hidden, numAttentionHeads: heads, intermediateSize: 4 * hidden }
  return published({ ...GPT_STYLE, name, vocabSize: 50257, ...sizes, ...more }, facts)
}

function gpt2(size: string, sizes: Sizes, reportedParameters: number, aliases: readonly string[]) {
  const source = 'config.json of the published weights'
  return gpt(`GPT-2 ${size}`, sizes, {}, { aliases, seqLen: 1024, reportedParameters, source })
}

/** Brown et al. 2020 (arXiv:2005.14165): sizes of table 2.1, tokens and FLOPs of table D.1. */
function gpt3(size: string, sizes: Sizes, reportedParameters: number, reportedFlops: number) {
  return gpt(
    `GPT-3 ${size}`,
    sizes,
    {},
    {
      seqLen: 2048,
      tokens: 300 * B,
      reportedParameters,
      reportedFlops,
      source: 'Brown et al. 2020 (arXiv:2005.14165), tables 2.1 and D.1',
    },
  )
}

/** Narayanan et al. 2021 (arXiv:2104.04473), table 1: a vocabulary of 51,200 and 2,048 tokens of context. */
function megatron(size: string, sizes: Sizes, reportedParameters: number) {
  return gpt(
    `Megatron ${size}`,
    sizes,
    { vocabSize: 51200 },
    {
      seqLen: 2048,
      reportedParameters,
      source: 'Narayanan et al. 2021 (arXiv:2104.04473), table 1',
    },
  )
}

/** Korthikanti et al. 2022 (arXiv:2205.05198), table 3. */
function recomputation(size: string, sizes: Sizes, reportedParameters: number) {
  return gpt(
    `Megatron-Turing ${size}`,
    sizes,
    { vocabSize: 51200 },
    {
      seqLen: 2048,
      reportedParameters,
      source: 'Korthikanti et al. 2022 (arXiv:2205.05198), table 3',
    },
  )
}

/** Rae et al. 2021 (arXiv:2112.11446) table 1, and Chinchilla: relative positions, RMSNorm, no biases, tied head. */
function gopher(name: string, [layers, hidden, heads]: Sizes, headDim: number, facts: Facts) {
  return published(
    {
      name,
      vocabSize: 32000,
      hiddenSize: hidden,
      numHiddenLayers: layers,
      numAttentionHeads: heads,
      headDim,
      intermediateSize: 4 * hidden,
      isGated: false,
      tieWordEmbeddings: true,
      positions: 'relative',
    },
    facts,
  )
}

/** Touvron et al. 2023 and what was made like it: what architecture() fills in by itself. */
function llama(
  name: string,
  [layers, hidden, heads]: Sizes,
  sizes: { readonly intermediateSize: number; readonly numKeyValueHeads?: number; readonly vocabSize?: number },
  facts: Facts,
) {
  const more = { numHiddenLayers: layers, hiddenSize: hidden, numAttentionHeads: heads }
  return published({ name, vocabSize: 32000, ...more, ...sizes }, facts)
}

function llama1(size: string, sizes: Sizes, intermediateSize: number, tokens: number, reportedParameters: number) {
  const source = 'Touvron et al. 2023 (arXiv:2302.13971), table 2'
  return llama(`Llama 1 ${size}`, sizes, { intermediateSize }, { seqLen: 2048, tokens, reportedParameters, source })
}

function llama2(size: string, sizes: Sizes, widths: Parameters<typeof llama>[2], reportedParameters: number) {
  const source = 'Touvron et al. 2023 (arXiv:2307.09288) and config.json'
  return llama(`Llama 2 ${size}`, sizes, widths, { seqLen: 4096, tokens: 2 * T, reportedParameters, source })
}

function llama3(size: string, sizes: Sizes, intermediateSize: number, facts: Omit<Facts, 'seqLen' | 'source'>) {
  const widths = { intermediateSize, numKeyValueHeads: 8, vocabSize: 128256 }
  const source = 'Grattafiori et al. 2024 (arXiv:2407.21783), table 3, and config.json'
  return llama(`Llama 3 ${size}`, sizes, widths, { seqLen: 8192, source, ...facts })
}

/** Almazrouei et al. 2023 (arXiv:2311.16867), table 1: FLOPs are printed in PF-days of 8.64e19. */
function falcon(size: string, [layers, hidden, heads]: Sizes, kvHeads: number, petaflopDays: number, tokens: number) {
  return published(
    {
      name: `Falcon ${size}`,
      vocabSize: 65024,
      hiddenSize: hidden,
      numHiddenLayers: layers,
      numAttentionHeads: heads,
      numKeyValueHeads: kvHeads,
      intermediateSize: 4 * hidden,
      isGated: false,
      tieWordEmbeddings: true,
      norm: 'layernorm',
      normsPerLayer: kvHeads === 1 ? 1 : 2,
    },
    {
      seqLen: 2048,
      tokens,
      reportedParameters: Number.parseFloat(size) * B,
      reportedFlops: petaflopDays * 8.64e19,
      source: 'Almazrouei et al. 2023 (arXiv:2311.16867), table 1, and config.json',
    },
  )
}

const DENSE: readonly PublishedModel[] = [
  gpt2('124M', [12, 768, 12], 124.44 * M, ['gpt2', 'gpt2-small']),
  gpt2('355M', [24, 1024, 16], 354.82 * M, ['gpt2-medium']),
  gpt2('774M', [36, 1280, 20], 774.03 * M, ['gpt2-large']),
  gpt2('1.5B', [48, 1600, 25], 1557.61 * M, ['gpt2-xl']),
  gpt3('Small', [12, 768, 12], 125 * M, 2.25e20),
  gpt3('Medium', [24, 1024, 16], 356 * M, 6.41e20),
  gpt3('Large', [24, 1536, 16], 760 * M, 1.37e21),
  // Table 2.1 prints 24 heads of 128, which are not 2048 wide; the parameters of table D.1 are those of 16.
  gpt3('XL', [24, 2048, 16], 1320 * M, 2.38e21),
  gpt3('2.7B', [32, 2560, 32], 2650 * M, 4.77e21),
  gpt3('6.7B', [32, 4096, 32], 6660 * M, 1.2e22),
  // Table 2.1 prints a width of 5,140 for 40 heads of 128.
  gpt3('13B', [40, 5120, 40], 12850 * M, 2.31e22),
  gpt3('175B', [96, 12288, 96], 174_600 * M, 3.14e23),
  megatron('1.7B', [24, 2304, 24], 1.7 * B),
  megatron('3.6B', [30, 3072, 32], 3.6 * B),
  megatron('7.5B', [36, 4096, 32], 7.5 * B),
  megatron('18.4B', [40, 6144, 48], 18.4 * B),
  megatron('39.1B', [48, 8192, 64], 39.1 * B),
  megatron('76.1B', [60, 10240, 80], 76.1 * B),
  megatron('145.6B', [80, 12288, 96], 145.6 * B),
  megatron('310.1B', [96, 16384, 128], 310.1 * B),
  megatron('529.6B', [105, 20480, 128], 529.6 * B),
  megatron('1008B', [128, 25600, 160], 1008 * B),
  recomputation('22B', [48, 6144, 64], 22 * B),
  recomputation('175B', [96, 12288, 96], 175 * B),
  recomputation('530B', [105, 20480, 128], 530 * B),
  recomputation('1T', [128, 25600, 160], 1000 * B),
  gopher('Gopher 280B', [80, 16384, 128], 128, {
    aliases: ['gopher'],
    seqLen: 2048,
    tokens: 300 * B,
    reportedParameters: 280 * B,
    reportedFlops: 6.3e23,
    source: 'Rae et al. 2021 (arXiv:2112.11446), table 1; FLOPs: Hoffmann et al. 2022 (arXiv:2203.15556), appendix F',
  }),
  gopher('Chinchilla 70B', [80, 8192, 64], 128, {
    aliases: ['chinchilla'],
    seqLen: 2048,
    tokens: 1.4 * T,
    reportedParameters: 70 * B,
    reportedFlops: 5.76e23,
    source: 'Hoffmann et al. 2022 (arXiv:2203.15556), table 4; FLOPs: the budget of Gopher, which it shares',
  }),
  palm('PaLM 8B', [32, 4096, 16], { reportedParameters: 8.63 * B, reportedFlops: 4.29e22 }),
  palm('PaLM 62B', [64, 8192, 32], { reportedParameters: 62.5 * B, tokens: 795 * B, reportedFlops: 3.08e23 }),
  palm('PaLM 540B', [118, 18432, 48], { aliases: ['palm'], reportedParameters: 540.35 * B, reportedFlops: 2.56e24 }),
  falcon('7B', [32, 4544, 71], 1, 730, 1.5 * T),
  falcon('40B', [60, 8192, 128], 8, 2800, 1 * T),
  falcon('180B', [80, 14848, 232], 8, 43_500, 3.5 * T),
  gpt(
    'OPT 175B',
    [96, 12288, 96],
    { vocabSize: 50272, maxPositionEmbeddings: 2050 },
    {
      aliases: ['opt-175b'],
      seqLen: 2048,
      tokens: 180 * B,
      reportedParameters: 175 * B,
      source: 'Zhang et al. 2022 (arXiv:2205.01068)',
    },
  ),
  gpt(
    'BLOOM 176B',
    [70, 14336, 112],
    { vocabSize: 250880, positions: 'alibi', hasEmbeddingNorm: true },
    {
      aliases: ['bloom'],
      seqLen: 2048,
      tokens: 366 * B,
      reportedParameters: 176.247 * B,
      source: 'Le Scao et al. 2022 (arXiv:2211.05100), table 3',
    },
  ),
  llama1('7B', [32, 4096, 32], 11008, 1 * T, 6.7 * B),
  llama1('13B', [40, 5120, 40], 13824, 1 * T, 13 * B),
  llama1('33B', [60, 6656, 52], 17920, 1.4 * T, 32.5 * B),
  llama1('65B', [80, 8192, 64], 22016, 1.4 * T, 65.2 * B),
  llama2('7B', [32, 4096, 32], { intermediateSize: 11008 }, 6.74 * B),
  llama2('13B', [40, 5120, 40], { intermediateSize: 13824 }, 13.02 * B),
  llama2('70B', [80, 8192, 64], { intermediateSize: 28672, numKeyValueHeads: 8 }, 68.98 * B),
  llama3('8B', [32, 4096, 32], 14336, { tokens: 15 * T, reportedParameters: 8.03 * B }),
  llama3('70B', [80, 8192, 64], 28672, { tokens: 15 * T, reportedParameters: 70.55 * B }),
  llama3('405B', [126, 16384, 128], 53248, { tokens: 15.6 * T, reportedParameters: 405 * B, reportedFlops: 3.8e25 }),
]

/** Chowdhery et al. 2022 (arXiv:2204.02311): parallel branches with one norm, multi-query, heads of 256, SwiGLU. */
function palm(
  name: string,
  [layers, hidden, heads]: Sizes,
  facts: Pick<PublishedModel, 'reportedParameters' | 'reportedFlops'> & {
    tokens?: number
    aliases?: readonly string[]
  },
): PublishedModel {
  return published(
    {
      name,
      vocabSize: 256000,
      hiddenSize: hidden,
      numHiddenLayers: layers,
      numAttentionHeads: heads,
      numKeyValueHeads: 1,
      headDim: 256,
      intermediateSize: 4 * hidden,
      tieWordEmbeddings: true,
      norm: 'layernorm-no-bias',
      normsPerLayer: 1,
    },
    {
      seqLen: 2048,
      tokens: 780 * B,
      ...facts,
      source: 'Chowdhery et al. 2022 (arXiv:2204.02311), table 1 and appendix B',
    },
  )
}

const EXPERTS: readonly PublishedModel[] = [
  published(
    {
      name: 'Mixtral 8x7B',
      vocabSize: 32000,
      hiddenSize: 4096,
      numHiddenLayers: 32,
      numAttentionHeads: 32,
      numKeyValueHeads: 8,
      intermediateSize: 14336,
      experts: {
        count: 8,
        active: 2,
        sharedIntermediateSize: 0,
        intermediateSize: 14336,
        denseLayers: 0,
        hasRouterBias: false,
      },
    },
    {
      aliases: ['mixtral'],
      seqLen: 32768,
      reportedParameters: 46.7 * B,
      source: 'Jiang et al. 2024 (arXiv:2401.04088)',
    },
  ),
  published(
    {
      name: 'DeepSeek-V3',
      vocabSize: 129280,
      hiddenSize: 7168,
      numHiddenLayers: 61,
      numAttentionHeads: 128,
      headDim: 128,
      intermediateSize: 18432,
      latentAttention: { queryRank: 1536, keyValueRank: 512, contentDim: 128, rotaryDim: 64, valueDim: 128 },
      experts: {
        count: 256,
        active: 8,
        sharedIntermediateSize: 2048,
        intermediateSize: 2048,
        denseLayers: 3,
        hasRouterBias: true,
      },
    },
    {
      seqLen: 4096,
      tokens: 14.8 * T,
      reportedParameters: 671 * B,
      source: 'DeepSeek-AI 2024 (arXiv:2412.19437), section 4.2 (without its module for a second token)',
    },
  ),
]

export const PRESETS: readonly PublishedModel[] = [...DENSE, ...EXPERTS]

/** The preset of this name or alias, whatever its spaces and hyphens; undefined where there is none. */
export function findPreset(name: string): PublishedModel | undefined {
  const wanted = squash(name)
  return PRESETS.find(
    (preset) => squash(preset.architecture.name) === wanted || preset.aliases.some((alias) => squash(alias) === wanted),
  )
}

/** @throws ConfigError with the nearest name */
export function demandPreset(name: string): PublishedModel {
  const preset = findPreset(name)
  if (preset !== undefined) return preset
  const names = PRESETS.flatMap((known) => [known.architecture.name, ...known.aliases])
  throw new ConfigError(
    `plan: expected a published model such as GPT-2 124M, GPT-3 175B, Chinchilla 70B, Llama 3 8B or DeepSeek-V3, got ${JSON.stringify(name)}${didYouMean(name, names, JSON.stringify)}`,
  )
}
