// Models from one kind of file to another without a device: Hugging Face folders (checkpoints of a run among them)
// and llama2.c files. Every conversion reads back what it wrote, compares each tensor bit for bit with what should be
// there, and leaves the result as `parity.json` (for a single file, beside it). Runs no model: who can, hands in
// `compareModels`.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { CheckpointError } from '../core/errors.ts'
import { sizeOf } from '../core/tensor.ts'
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
import { type CompareModels, compareTensors, type Parity, type StoredModel, withGreedy } from './parity.ts'
import type { TensorSource } from './safetensors-writer.ts'
import { WeightsFolder, writeWeightsFolder } from './weights-folder.ts'

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
 * @throws CheckpointError if the folder exists, the source does not fit its config.json, or a comparison fails
 */
export async function convertHfFolder(
  from: string,
  out: string,
  options: { dtype?: WeightsDtype; maxShardBytes?: number; compareModels?: CompareModels } = {},
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
    model: folderModel(config, weights, names),
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
  options: { tokenizer?: string; dtype?: WeightsDtype; compareModels?: CompareModels } = {},
): Promise<Parity> {
  using file = new Llama2cFile(from)
  const { config } = file
  const { dtype = 'f32', tokenizer, compareModels } = options
  const tokenizerFiles =
    tokenizer === undefined ? {} : llama2cTokenizerFiles(tokenizer, config.vocabSize, config.maxPositionEmbeddings)
  return await writeModelFolder(out, {
    config,
    sources: () => file.tensors().map((source) => ({ ...source, dtype })),
    tokenizerFiles,
    generationConfig: generationConfigJson(config),
    source: basename(from),
    model: llama2cModel(file),
    ...(compareModels !== undefined && { compareModels }),
  })
}

/** Writes a Llama of a Hugging Face folder or checkpoint as a llama2.c file, with `<out>.parity.json` beside it. */
export async function exportLlama2c(
  from: string,
  out: string,
  options: { compareModels?: CompareModels } = {},
): Promise<Parity> {
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
  const bits = await compareTensors(expected, written.tensors(), basename(from), out)
  const model = folderModel(config, weights, names)
  const parity = await withGreedy(bits, model, llama2cModel(written), out, options.compareModels)
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
  /** The source itself, to compare with. */
  readonly model: StoredModel
  readonly compareModels?: CompareModels
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
    const bits = await compareTensors(parts.sources(), actual, parts.source, out)
    const artefact = folderModel(readHfConfig(folder), written)
    const parity = await withGreedy(bits, parts.model, artefact, out, parts.compareModels)
    await writeJson(join(folder, 'parity.json'), parity)
    renameSync(folder, out)
    syncFolder(dirname(out))
    return parity
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    throw error
  }
}

/** @param fileNames  Hugging Face name -> name in the files, where they differ */
function folderModel(config: HfConfig, weights: WeightsFolder, fileNames?: ReadonlyMap<string, string>): StoredModel {
  return { config, readTensor: async (name) => weights.readNumbers(fileNames?.get(name) ?? name) }
}

function llama2cModel(file: Llama2cFile): StoredModel {
  const tensors = new Map(file.tensors().map((tensor) => [tensor.name, tensor]))
  return { config: file.config, readTensor: async (name) => await wholeTensor(tensors.get(name)!) }
}

async function wholeTensor({ shape, chunks }: TensorSource): Promise<Float32Array> {
  const values = new Float32Array(sizeOf(shape))
  let used = 0
  for await (const chunk of chunks()) {
    values.set(chunk, used)
    used += chunk.length
  }
  return values
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

function readGenerationConfig(folder: string): object | undefined {
  const path = join(folder, 'generation_config.json')
  return existsSync(path) ? readJsonObject(path) : undefined
}
