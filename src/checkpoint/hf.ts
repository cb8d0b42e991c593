// Models in and out of Hugging Face folders: weights by name, config.json, generation_config.json and the tokenizer's
// files. Works on any model that `parameters` can walk; fused storage is cut into its Hugging Face parts on the way.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { HostArray } from '../core/dtype.ts'
import { CheckpointError } from '../core/errors.ts'
import type { Parameter } from '../core/parameter.ts'
import { show, Tensor } from '../core/tensor.ts'
import { parameters } from '../nn/module.ts'
import { jsonText, someNames, writeContents } from './files.ts'
import { generationConfigJson, type HfConfig, hfConfigText, type WeightsDtype } from './hf-config.ts'
import { toHfName } from './names.ts'
import { CHUNK_ELEMENTS } from './safetensors.ts'
import type { TensorSource } from './safetensors-writer.ts'
import { WeightsFolder, writeWeightsFolder } from './weights-folder.ts'

/** One Hugging Face tensor of a model. */
export interface HfTensor {
  /** `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string
  /** The rows of the parameter (of its master) that are this tensor; its shape is the Hugging Face shape. */
  readonly view: Tensor
  readonly parameter: Parameter
}

/** Every Hugging Face tensor of a model in the order of its parameters; a tied head is not among them. */
export function hfTensors(model: object): HfTensor[] {
  return parameters(model).flatMap((parameter) => {
    const names = parameter.partNames()
    return parameter.parts.map((part, i) => ({
      name: toHfName(names[i]!),
      view: parameter.stored.slice(part.firstRow, part.rows),
      parameter,
    }))
  })
}

/** Tables that older checkpoints carry and that are computed here: causal masks and rotary frequencies. */
const COMPUTED = /(^|\.)(attn\.(bias|masked_bias)|rotary_emb\.inv_freq)$/

const FLOAT_DTYPES = new Set(['f64', 'f32', 'bf16', 'f16'])

/**
 * Fills the parameters of a materialised model from the safetensors of a folder. Nothing is written until every name
 * and shape has been checked. The `transformer.` or `model.` prefix may be missing throughout (files of base models);
 * computed tables are ignored; a tied head may be there or not, but must then equal the embedding.
 * @throws CheckpointError naming tensors that are missing, unexpected or of another shape
 */
export function loadHfWeights(model: object, folder: string): void {
  using weights = new WeightsFolder(folder)
  fillWeights(model, weights, matchWeights(model, weights))
}

/** Loads weights that `matchWeights` has found to fit, by the names that it gave. */
export function fillWeights(model: object, weights: WeightsFolder, fileNames: ReadonlyMap<string, string>): void {
  for (const { name, view } of hfTensors(model)) fill(view, fileNames.get(name)!, weights)
  for (const parameter of parameters(model)) parameter.refresh()
}

/**
 * Checks that weights fit a model (shapes are enough, it needs no memory): see `loadHfWeights`.
 * @returns for each Hugging Face name of the model the tensor's name in the files
 */
export function matchWeights(model: object, weights: WeightsFolder): Map<string, string> {
  const tensors = hfTensors(model)
  const fileNames = matchNames(tensors, weights)
  checkTensors(tensors, fileNames, weights)
  checkTiedHead(tensors, fileNames, weights)
  return fileNames
}

/** Hugging Face name -> name in the file. */
function matchNames(tensors: readonly HfTensor[], weights: WeightsFolder): Map<string, string> {
  const prefix = /^(transformer|model)\./
  const hasPrefix = weights.names.some((name) => prefix.test(name))
  return new Map(tensors.map(({ name }) => [name, hasPrefix ? name : name.replace(prefix, '')]))
}

function checkTensors(tensors: readonly HfTensor[], fileNames: Map<string, string>, weights: WeightsFolder): void {
  const missing: string[] = []
  const misfits: string[] = []
  const known = new Set(fileNames.values())
  for (const { name, view } of tensors) {
    const fileName = fileNames.get(name)!
    if (!weights.has(fileName)) {
      missing.push(fileName)
      continue
    }
    const { shape, dtype } = weights.entry(fileName)
    if (shape.length !== view.shape.length || shape.some((n, i) => n !== view.shape[i])) {
      misfits.push(`${fileName} must be ${show(view.shape)} but is ${show(shape)}`)
    } else if (!FLOAT_DTYPES.has(dtype)) {
      misfits.push(`${fileName} is ${dtype}, which is no plain float type (quantised weights are not read)`)
    }
  }
  const isTied = !tensors.some(({ name }) => name === HEAD)
  const unexpected = weights.names.filter(
    (name) => !known.has(name) && !COMPUTED.test(name) && !(isTied && name === HEAD),
  )
  const problems = [
    missing.length > 0 && `missing: ${someNames(missing)}${missing.includes(HEAD) ? ` (${UNTIED_HINT})` : ''}`,
    unexpected.length > 0 && `unexpected: ${someNames(unexpected)}`,
    misfits.length > 0 && `unfit: ${someNames(misfits)}`,
  ].filter((problem) => problem !== false)
  if (problems.length > 0) {
    throw new CheckpointError(
      `${weights.folder}: its weights do not fit the model of config.json; ${problems.join('; ')}`,
    )
  }
}

const HEAD = 'lm_head.weight'
const UNTIED_HINT = 'tie_word_embeddings is false, so the head needs weights of its own'

/** A head that differs from the embedding it is said to be tied to would be lost without a word. */
function checkTiedHead(tensors: readonly HfTensor[], fileNames: Map<string, string>, weights: WeightsFolder): void {
  if (!weights.has(HEAD) || tensors.some(({ name }) => name === HEAD)) return
  const embedding = tensors.find(({ name }) => /(^|\.)(embed_tokens|wte)\.weight$/.test(name))
  if (embedding === undefined) return
  const fileName = fileNames.get(embedding.name)!
  if (!equalTensors(weights, HEAD, weights, fileName)) {
    throw new CheckpointError(
      `${weights.folder}: ${HEAD} differs from ${fileName} although config.json ties them; set tie_word_embeddings to false there`,
    )
  }
}

/** Whether two tensors have the same type, shape and bits. */
export function equalTensors(a: WeightsFolder, nameA: string, b: WeightsFolder, nameB: string): boolean {
  const left = a.entry(nameA)
  const right = b.entry(nameB)
  if (left.dtype !== right.dtype || show(left.shape) !== show(right.shape)) return false
  const step = 1 << 22
  for (let from = 0; from < left.bytes; from += step) {
    const count = Math.min(step, left.bytes - from)
    const bytes = a.file(nameA).readBytes(nameA, from, count)
    if (Buffer.compare(bytes, b.file(nameB).readBytes(nameB, from, count)) !== 0) return false
  }
  return true
}

/** Copies a tensor of a file into device memory, some rows at a time. */
export function fill(view: Tensor, name: string, weights: WeightsFolder): void {
  for (const { rows, from, count } of rowChunks(asStored(view)))
    view.device.write(rows, weights.readNumbers(name, from, count))
}

/** Weights call themselves f32; a device that keeps them in f64 must not round them on the way. */
export function asStored(view: Tensor): Tensor {
  const { shape, dtype, storage, offset, device } = view
  return new Tensor(shape, dtype === 'f32' ? device.masterDtype : dtype, storage, { offset })
}

/** Cuts a tensor along its leading dim into views of about a chunk, with their element ranges. */
function* rowChunks(view: Tensor): Generator<{ rows: Tensor; from: number; count: number }> {
  const leading = view.shape[0] ?? 1
  const rowSize = view.size / Math.max(1, leading)
  const step = Math.max(1, Math.floor(CHUNK_ELEMENTS / Math.max(1, rowSize)))
  for (let row = 0; row < leading; row += step) {
    const count = Math.min(step, leading - row)
    yield { rows: view.slice(row, count), from: row * rowSize, count: count * rowSize }
  }
}

/** A tensor in device memory as something to write to a file, read back some rows at a time. */
export function deviceSource(name: string, dtype: TensorSource['dtype'], view: Tensor): TensorSource {
  return { name, dtype, shape: view.shape, chunks: () => readChunks(view) }
}

async function* readChunks(view: Tensor): AsyncGenerator<HostArray> {
  for (const { rows } of rowChunks(asStored(view))) yield await view.device.read(rows)
}

/** The tokenizer's files by name (`tokenizer.json`, `tokenizer_config.json` ...), written as they are. */
export type TokenizerFiles = Readonly<Record<string, string | Uint8Array>>

/**
 * Writes a folder that transformers 4 and 5 load: weights (in shards above `maxShardBytes`), config.json,
 * generation_config.json and the tokenizer's files. Each file appears only when complete.
 * @param dtype  element type of the weights, `f32` unless told; narrower ones round to nearest even
 */
export async function saveHfFolder(
  model: object,
  config: HfConfig,
  tokenizerFiles: TokenizerFiles,
  folder: string,
  options: { dtype?: WeightsDtype; maxShardBytes?: number } = {},
): Promise<void> {
  const dtype = options.dtype ?? 'f32'
  const files = hfFolderFiles(config, tokenizerFiles, dtype)
  mkdirSync(folder, { recursive: true })
  const sources = hfTensors(model).map(({ name, view }) => deviceSource(name, dtype, view))
  await writeWeightsFolder(folder, sources, options)
  for (const [name, contents] of Object.entries(files)) await writeContents(join(folder, name), contents)
}

/**
 * The files of a Hugging Face folder besides its weights, by name.
 * @throws CheckpointError if a tokenizer file has the name of another file of the folder
 */
export function hfFolderFiles(config: HfConfig, tokenizerFiles: TokenizerFiles, dtype: WeightsDtype): TokenizerFiles {
  for (const name of Object.keys(tokenizerFiles)) {
    if (!/^[\w.-]+$/.test(name) || /^(config|generation_config)\.json$|safetensors/.test(name)) {
      throw new CheckpointError(`a tokenizer file cannot be called ${name}`)
    }
  }
  return {
    ...tokenizerFiles,
    'config.json': hfConfigText(config, dtype),
    'generation_config.json': jsonText(generationConfigJson(config)),
  }
}
