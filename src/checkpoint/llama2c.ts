// llama2.c's legacy model file (karpathy/llama2.c, run.c): seven int32 and then float32 weights in a fixed order,
// converted to and from Hugging Face's Llama. It rotates neighbouring pairs of a head where Hugging Face rotates
// halves, so the rows of q and k change places, as in Meta's own conversion. Newer versions of the format are refused.
import { closeSync, fstatSync, openSync } from 'node:fs'
import type { HostArray } from '../core/dtype.ts'
import { CheckpointError } from '../core/errors.ts'
import { show, sizeOf } from '../core/tensor.ts'
import type { LlamaConfig } from '../models/llama.ts'
import { rotaryFrequencies } from '../nn/rotary.ts'
import { readExactly, writeAll, writeFileAtomic } from './files.ts'
import type { TensorSource } from './safetensors-writer.ts'
import type { WeightsFolder } from './weights-folder.ts'

const HEADER_BYTES = 28
/** What run.c computes with, whatever the model was trained with. */
const RMS_NORM_EPS = 1e-5
const ROPE_THETA = 10000

/** One stretch of the file: a Hugging Face tensor, or a rotary table that run.c keeps for compatibility. */
interface Block {
  readonly name: string
  readonly shape: readonly number[]
  /** Heads whose rows are in the other rotary order. */
  readonly permutedHeads?: number
  readonly isTable?: boolean
}

/** The order of run.c's memory_map_weights: each kind of weight for all layers, then the next kind. */
function blocksOf(config: LlamaConfig): Block[] {
  const { hiddenSize: width, intermediateSize: inner, vocabSize, headDim } = config
  const { numAttentionHeads: heads, numKeyValueHeads: groups, maxPositionEmbeddings: positions } = config
  const perLayer = (suffix: string, shape: readonly number[], permutedHeads?: number): Block[] =>
    Array.from({ length: config.numHiddenLayers }, (_, layer) => ({
      name: `model.layers.${layer}.${suffix}.weight`,
      shape,
      ...(permutedHeads !== undefined && { permutedHeads }),
    }))
  const table = { shape: [positions, headDim / 2], isTable: true }
  const blocks: Block[] = [
    { name: 'model.embed_tokens.weight', shape: [vocabSize, width] },
    ...perLayer('input_layernorm', [width]),
    ...perLayer('self_attn.q_proj', [heads * headDim, width], heads),
    ...perLayer('self_attn.k_proj', [groups * headDim, width], groups),
    ...perLayer('self_attn.v_proj', [groups * headDim, width]),
    ...perLayer('self_attn.o_proj', [width, heads * headDim]),
    ...perLayer('post_attention_layernorm', [width]),
    ...perLayer('mlp.gate_proj', [inner, width]),
    ...perLayer('mlp.down_proj', [width, inner]),
    ...perLayer('mlp.up_proj', [inner, width]),
    { name: 'model.norm.weight', shape: [width] },
    { name: 'freq_cis_real', ...table },
    { name: 'freq_cis_imag', ...table },
  ]
  if (!config.tieWordEmbeddings) blocks.push({ name: 'lm_head.weight', shape: [vocabSize, width] })
  return blocks
}

/** An open llama2.c model: its configuration and its tensors under Hugging Face names. Close it when done. */
export class Llama2cFile {
  readonly path: string
  readonly config: LlamaConfig
  #fd: number | undefined

  /** @throws CheckpointError if the header makes no sense or the file does not have exactly the bytes it announces */
  constructor(path: string) {
    this.path = path
    try {
      this.#fd = openSync(path, 'r')
    } catch (cause) {
      throw new CheckpointError(`${path}: cannot be opened (${(cause as NodeJS.ErrnoException).code})`, { cause })
    }
    try {
      this.config = readConfig(this.#fd, path)
      const expected = fileBytes(this.config)
      const { size } = fstatSync(this.#fd)
      if (size !== expected) {
        throw new CheckpointError(
          `${path}: its header describes a llama2.c model of ${expected} bytes, the file has ${size}; it is cut off or of another version`,
        )
      }
    } catch (error) {
      this.close()
      throw error
    }
  }

  /** The weights, float32, in the Hugging Face row order; read when their chunks are asked for. */
  tensors(): TensorSource[] {
    let position = HEADER_BYTES
    const sources: TensorSource[] = []
    for (const block of blocksOf(this.config)) {
      const at = position
      position += 4 * sizeOf(block.shape)
      if (block.isTable) continue
      const { name, shape } = block
      sources.push({ name, dtype: 'f32', shape, chunks: () => [this.#read(block, at)] })
    }
    return sources
  }

  #read(block: Block, position: number): HostArray {
    if (this.#fd === undefined) throw new CheckpointError(`${this.path}: the file is closed already`)
    const values = new Float32Array(sizeOf(block.shape))
    readExactly(this.#fd, new Uint8Array(values.buffer), position, this.path)
    return block.permutedHeads === undefined ? values : permuteRows(values, block, 'pairs to halves')
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd)
    this.#fd = undefined
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

function fileBytes(config: LlamaConfig): number {
  return HEADER_BYTES + 4 * blocksOf(config).reduce((sum, { shape }) => sum + sizeOf(shape), 0)
}

function readConfig(fd: number, path: string): LlamaConfig {
  if (fstatSync(fd).size < HEADER_BYTES) {
    throw new CheckpointError(`${path}: too short for a llama2.c model: its header alone takes ${HEADER_BYTES} bytes`)
  }
  const bytes = new Uint8Array(HEADER_BYTES)
  readExactly(fd, bytes, 0, path)
  const header = new Int32Array(bytes.buffer)
  const [width, inner, layers, heads, groups, vocab, positions] = header as unknown as number[] & { length: 7 }
  const vocabSize = Math.abs(vocab!)
  const sizes = [width!, inner!, layers!, heads!, groups!, vocabSize, positions!]
  const fits = sizes.every((n) => n >= 1 && n <= 1 << 24) && layers! <= 4096
  if (!fits || width! % heads! !== 0 || heads! % groups! !== 0 || (width! / heads!) % 2 !== 0) {
    throw new CheckpointError(
      `${path}: its first seven numbers (${[...header].join(', ')}) are not a llama2.c header (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len)`,
    )
  }
  return {
    modelType: 'llama',
    vocabSize,
    hiddenSize: width!,
    intermediateSize: inner!,
    numHiddenLayers: layers!,
    numAttentionHeads: heads!,
    numKeyValueHeads: groups!,
    headDim: width! / heads!,
    maxPositionEmbeddings: positions!,
    rmsNormEps: RMS_NORM_EPS,
    ropeTheta: ROPE_THETA,
    // A negative vocabulary size says that the classifier has weights of its own.
    tieWordEmbeddings: vocab! > 0,
    initializerRange: 0.02,
    bosTokenId: 1,
    eosTokenId: 2,
  }
}

/** Row 2i + j of a head in pairs is row j * headDim / 2 + i in halves (j = 0, 1). */
function permuteRows(
  values: Float32Array,
  { shape, permutedHeads }: Block,
  direction: 'pairs to halves' | 'halves to pairs',
): Float32Array {
  const columns = shape[1]!
  const headDim = shape[0]! / permutedHeads!
  const out = new Float32Array(values.length)
  for (let row = 0; row < shape[0]!; row++) {
    const inHead = row % headDim
    const paired = row - inHead + 2 * (inHead % (headDim / 2)) + Math.floor(inHead / (headDim / 2))
    const [from, to] = direction === 'pairs to halves' ? [paired, row] : [row, paired]
    out.set(values.subarray(from * columns, (from + 1) * columns), to * columns)
  }
  return out
}

/**
 * Writes weights as a llama2.c model file.
 * @param fileNames  Hugging Face name -> name in `weights`, where they differ (`matchWeights` gives it)
 * @throws CheckpointError if the format cannot say what the configuration says, or a tensor does not fit it
 */
export async function writeLlama2c(
  path: string,
  config: LlamaConfig,
  weights: WeightsFolder,
  fileNames?: ReadonlyMap<string, string>,
): Promise<void> {
  refuseInexpressible(path, config)
  const nameOf = (name: string): string => fileNames?.get(name) ?? name
  const blocks = blocksOf(config)
  for (const { name, shape, isTable } of blocks) {
    const found = isTable ? shape : weights.entry(nameOf(name)).shape
    if (show(found) !== show(shape)) {
      throw new CheckpointError(`${weights.folder}: ${name} must be ${show(shape)}, but is ${show(found)}`)
    }
  }
  const header = Int32Array.of(
    config.hiddenSize,
    config.intermediateSize,
    config.numHiddenLayers,
    config.numAttentionHeads,
    config.numKeyValueHeads,
    config.tieWordEmbeddings ? config.vocabSize : -config.vocabSize,
    config.maxPositionEmbeddings,
  )
  await writeFileAtomic(path, (fd) => {
    writeAll(fd, new Uint8Array(header.buffer))
    for (const block of blocks) {
      if (block.isTable) writeAll(fd, bytesOf(rotaryTable(config, block.name)))
      else if (block.permutedHeads === undefined)
        for (const chunk of weights.chunks(nameOf(block.name))) writeAll(fd, bytesOf(chunk))
      else writeAll(fd, bytesOf(permuteRows(wholeTensor(weights, nameOf(block.name)), block, 'halves to pairs')))
    }
  })
}

/** run.c has these built in; writing a model that needs other values would change what it says. */
function refuseInexpressible(path: string, config: LlamaConfig): void {
  const { headDim, hiddenSize, numAttentionHeads, rmsNormEps, ropeScaling, ropeTheta } = config
  const problem =
    ropeTheta !== ROPE_THETA
      ? `ropeTheta ${ropeTheta}, where run.c has ${ROPE_THETA}`
      : rmsNormEps !== RMS_NORM_EPS
        ? `rmsNormEps ${rmsNormEps}, where run.c has ${RMS_NORM_EPS}`
        : ropeScaling !== undefined && ropeScaling.ropeType !== 'default'
          ? `ropeScaling of type ${ropeScaling.ropeType}, which run.c does not know`
          : headDim * numAttentionHeads !== hiddenSize
            ? `heads of ${headDim} that do not make up hiddenSize ${hiddenSize}`
            : undefined
  if (problem !== undefined) {
    throw new CheckpointError(`${path}: the llama2.c format cannot express this model: it has ${problem}`)
  }
}

function wholeTensor(weights: WeightsFolder, name: string): Float32Array {
  return weights.file(name).readFloats(name)
}

function rotaryTable(config: LlamaConfig, name: string): Float32Array {
  const frequencies = rotaryFrequencies(config.headDim, config.ropeTheta)
  const half = frequencies.length
  const f = name === 'freq_cis_real' ? Math.cos : Math.sin
  return Float32Array.from({ length: config.maxPositionEmbeddings * half }, (_, i) =>
    f(Math.fround(Math.floor(i / half) * frequencies[i % half]!)),
  )
}

function bytesOf(values: HostArray): Uint8Array {
  if (values instanceof Float32Array) return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  return new Uint8Array(Float32Array.from(values).buffer)
}
