// Models from one kind of file to another without a device: Hugging Face folders (checkpoints of a run among them)
// and llama2.c files. Every conversion reads back what it wrote, compares each tensor bit for bit with what should be
// there, and leaves the result as `parity.json` (for a single file, beside it).
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { HostArray } from '../core/dtype.ts'
import { CheckpointError } from '../core/errors.ts'
import { show, sizeOf } from '../core/tensor.ts'
import { readJsonObject, syncFolder, temporarySibling, writeContents, writeJson } from './files.ts'
import { matchWeights, type TokenizerFiles } from './hf.ts'
import {
  createModel,
  generationConfigJson,
  type HfConfig,
  hfConfigText,
  readHfConfig,
  TORCH_DTYPES,
  type WeightsDtype,
} from './hf-config.ts'
import { Llama2cFile, writeLlama2c } from './llama2c.ts'
import { llama2cTokenizerFiles } from './llama2c-tokenizer.ts'
import { convertValues, type TensorSource } from './safetensors-writer.ts'
import { WeightsFolder, writeWeightsFolder } from './weights-folder.ts'

/** What `parity.json` holds: proof that the artefact is what its source was. */
export interface Parity {
  readonly version: 1
  /** Name of the converted file or folder. */
  readonly source: string
  readonly tensors: number
  readonly elements: number
  /** Element types in the artefact. */
  readonly dtypes: readonly string[]
  /** Every tensor, read back, has exactly the bits of the source rounded to its type. Always true: else an error. */
  readonly isBitwiseEqual: true
  /** Largest change of an element by rounding to a narrower type; 0 where the type is the source's. */
  readonly maxRounding: number
}

/** The report in one line, for a terminal. */
export function paritySentence(out: string, { tensors, elements, dtypes, maxRounding }: Parity): string {
  const size = `${tensors} tensors, ${elements.toLocaleString('en-US')} parameters in ${dtypes.join(' and ')}`
  const rounding = maxRounding === 0 ? '' : `; rounding changed no element by more than ${maxRounding.toPrecision(2)}`
  return `${out}: ${size}, read back bit for bit${rounding}`
}

/** Files of a folder that belong to its tokenizer, with the chat template. */
const TOKENIZER_FILE =
  /^(tokenizer\.json|tokenizer\.model|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template\.(jinja|json))$/

/** The tokenizer's files of a Hugging Face folder, as they are. */
export function readTokenizerFiles(folder: string): TokenizerFiles {
  const names = readdirSync(folder).filter((name) => TOKENIZER_FILE.test(name))
  return Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, name))]))
}

/**
 * Copies a Hugging Face folder or a checkpoint into a clean folder: weights checked against config.json and under their
 * full names, without computed tables, trainer state or a tied head of their own.
 * @param dtype  element type to convert to; each tensor keeps its own where it is not given
 */
export async function convertHfFolder(
  from: string,
  out: string,
  options: { dtype?: WeightsDtype; maxShardBytes?: number } = {},
): Promise<Parity> {
  const config = readHfConfig(from)
  using weights = new WeightsFolder(from)
  const names = matchWeights(createModel(config), weights)
  const sources = (): TensorSource[] =>
    [...names].map(([name, fileName]) => fileSource(weights, fileName, { name, ...options }))
  return await writeModelFolder(out, {
    config,
    sources,
    tokenizerFiles: readTokenizerFiles(from),
    generationConfig: readGenerationConfig(from) ?? generationConfigJson(config),
    source: basename(from),
    ...options,
  })
}

/**
 * Turns a llama2.c model into a Hugging Face folder, with its tokenizer where that is given.
 * @param tokenizer  llama2.c's tokenizer file for this model
 */
export async function importLlama2c(
  from: string,
  out: string,
  options: { tokenizer?: string; dtype?: WeightsDtype } = {},
): Promise<Parity> {
  using file = new Llama2cFile(from)
  const { config } = file
  const { dtype = 'f32', tokenizer } = options
  const tokenizerFiles =
    tokenizer === undefined ? {} : llama2cTokenizerFiles(tokenizer, config.vocabSize, config.maxPositionEmbeddings)
  return await writeModelFolder(out, {
    config,
    sources: () => file.tensors().map((source) => ({ ...source, dtype })),
    tokenizerFiles,
    generationConfig: generationConfigJson(config),
    source: basename(from),
  })
}

/** Writes a Llama of a Hugging Face folder or checkpoint as a llama2.c file, with `<out>.parity.json` beside it. */
export async function exportLlama2c(from: string, out: string): Promise<Parity> {
  const config = readHfConfig(from)
  if (config.modelType !== 'llama') {
    throw new CheckpointError(
      `${from}: only models of type llama fit the llama2.c format, this one is ${config.modelType}`,
    )
  }
  if (existsSync(out)) throw new CheckpointError(`${out}: the file exists already; choose another name`)
  using weights = new WeightsFolder(from)
  const names = matchWeights(createModel(config), weights)
  await writeLlama2c(out, config, weights, names)
  using written = new Llama2cFile(out)
  const expected = [...names].map(([name, fileName]) => fileSource(weights, fileName, { name, dtype: 'f32' }))
  const parity = await compareTensors(expected, written.tensors(), basename(from), out)
  await writeJson(`${out}.parity.json`, parity)
  return parity
}

interface ModelFolder {
  readonly config: HfConfig
  /** Fresh sources each time: they are read once to write and once to compare. */
  readonly sources: () => TensorSource[]
  readonly tokenizerFiles: TokenizerFiles
  readonly generationConfig: object
  readonly source: string
  readonly maxShardBytes?: number
}

/** Writes beside, compares, renames: a folder of that name is complete and proven. */
async function writeModelFolder(out: string, parts: ModelFolder): Promise<Parity> {
  if (existsSync(out)) throw new CheckpointError(`${out}: it exists already; choose another folder`)
  mkdirSync(dirname(out), { recursive: true })
  const folder = temporarySibling(out)
  mkdirSync(folder)
  try {
    const sources = parts.sources()
    await writeWeightsFolder(folder, sources, parts)
    await writeContents(join(folder, 'config.json'), hfConfigText(parts.config, commonDtype(sources)))
    await writeJson(join(folder, 'generation_config.json'), parts.generationConfig)
    for (const [name, contents] of Object.entries(parts.tokenizerFiles))
      await writeContents(join(folder, name), contents)
    using written = new WeightsFolder(folder)
    const actual = written.names.map((name) => fileSource(written, name))
    const parity = await compareTensors(parts.sources(), actual, parts.source, out)
    await writeJson(join(folder, 'parity.json'), parity)
    renameSync(folder, out)
    syncFolder(dirname(out))
    return parity
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    throw error
  }
}

/** What config.json says about the weights: the type of most elements. */
function commonDtype(sources: readonly TensorSource[]): WeightsDtype {
  const counts = new Map<WeightsDtype, number>()
  for (const { dtype, shape } of sources) {
    if (isWeightsDtype(dtype)) counts.set(dtype, (counts.get(dtype) ?? 0) + sizeOf(shape))
  }
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? 'f32'
}

function isWeightsDtype(dtype: string): dtype is WeightsDtype {
  return Object.hasOwn(TORCH_DTYPES, dtype)
}

/** A tensor of a folder as something to write, under another name or type where given. */
function fileSource(
  weights: WeightsFolder,
  fileName: string,
  options: { name?: string; dtype?: WeightsDtype } = {},
): TensorSource {
  const entry = weights.entry(fileName)
  if (!isWeightsDtype(entry.dtype)) {
    throw new CheckpointError(`${weights.folder}: ${fileName} is ${entry.dtype}, which is no plain float type`)
  }
  const dtype = options.dtype ?? entry.dtype
  return { name: options.name ?? fileName, dtype, shape: entry.shape, chunks: () => weights.chunks(fileName) }
}

/** Reads both sides again, piece by piece. @throws CheckpointError at the first difference */
async function compareTensors(
  expected: readonly TensorSource[],
  actual: readonly TensorSource[],
  source: string,
  path: string,
): Promise<Parity> {
  const byName = new Map(actual.map((tensor) => [tensor.name, tensor]))
  if (byName.size !== expected.length) {
    throw new CheckpointError(`${path}: ${expected.length} tensors were written, but ${byName.size} are there`)
  }
  let maxRounding = 0
  for (const tensor of expected) {
    const twin = byName.get(tensor.name)
    const rounding = twin === undefined ? undefined : await compareTensor(tensor, twin)
    if (rounding === undefined) {
      throw new CheckpointError(
        `${path}: tensor ${tensor.name} does not read back as it was written; the disk or memory failed`,
      )
    }
    maxRounding = Math.max(maxRounding, rounding)
  }
  return {
    version: 1,
    source,
    tensors: expected.length,
    elements: expected.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
    dtypes: [...new Set(expected.map(({ dtype }) => dtype))].sort(),
    isBitwiseEqual: true,
    maxRounding,
  }
}

/** Largest rounding of an element, or undefined where a bit differs from the rounded source. */
async function compareTensor(expected: TensorSource, actual: TensorSource): Promise<number | undefined> {
  if (expected.dtype !== actual.dtype || show(expected.shape) !== show(actual.shape)) return undefined
  const written = new Cursor(actual.chunks())
  let maxRounding = 0
  for await (const chunk of expected.chunks()) {
    for (let from = 0; from < chunk.length; ) {
      const found = await written.next(chunk.length - from)
      if (found === undefined) return undefined
      const wanted = chunk.subarray(from, from + found.length)
      const [a, b] = [convertValues(wanted, expected.dtype), convertValues(found, expected.dtype)]
      if (Buffer.compare(bytesOf(a), bytesOf(b)) !== 0) return undefined
      for (let i = 0; i < wanted.length; i++) {
        const rounding = Math.abs(wanted[i]! - found[i]!)
        if (rounding > maxRounding && rounding !== Number.POSITIVE_INFINITY) maxRounding = rounding
      }
      from += found.length
    }
  }
  return (await written.next(1)) === undefined ? maxRounding : undefined
}

function bytesOf(values: HostArray): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}

/** Hands out the elements of pieces in portions of at most a wanted length. */
class Cursor {
  readonly #pieces: AsyncIterator<HostArray> | Iterator<HostArray>
  #piece: HostArray = new Uint8Array(0)
  #used = 0

  constructor(chunks: Iterable<HostArray> | AsyncIterable<HostArray>) {
    this.#pieces = Symbol.asyncIterator in chunks ? chunks[Symbol.asyncIterator]() : chunks[Symbol.iterator]()
  }

  async next(count: number): Promise<HostArray | undefined> {
    while (this.#used === this.#piece.length) {
      const result = await this.#pieces.next()
      if (result.done === true) return undefined
      this.#piece = result.value
      this.#used = 0
    }
    const portion = this.#piece.subarray(this.#used, this.#used + count)
    this.#used += portion.length
    return portion
  }
}

function readGenerationConfig(folder: string): object | undefined {
  const path = join(folder, 'generation_config.json')
  return existsSync(path) ? readJsonObject(path) : undefined
}
