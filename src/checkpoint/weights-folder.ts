// The weights of a folder, in one `model.safetensors` or in shards with `model.safetensors.index.json`, read and
// written as one set of named tensors. Knows nothing about models.
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { HostArray } from '../core/dtype.ts'
import { CheckpointError } from '../core/errors.ts'
import { shown } from '../core/json.ts'
import { isJsonObject, readJsonObject, someNames, writeJson } from './files.ts'
import { SafetensorsFile, type TensorEntry } from './safetensors.ts'
import { sourceBytes, type TensorSource, writeSafetensors } from './safetensors-writer.ts'

const SINGLE = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'

/** Larger sets are cut into shards of at most this many bytes, as transformers does. */
export const DEFAULT_MAX_SHARD_BYTES = 5_000_000_000

/** Open weights of a folder. Close them when done. */
export class WeightsFolder {
  readonly folder: string
  readonly #files: readonly SafetensorsFile[]
  readonly #homes = new Map<string, SafetensorsFile>()

  /** @throws CheckpointError if there are no weights, a shard is missing, or the index and the shards disagree */
  constructor(folder: string) {
    this.folder = folder
    const index = join(folder, INDEX)
    const single = join(folder, SINGLE)
    if (!existsSync(single) && !existsSync(index)) {
      throw new CheckpointError(`${folder}: expected ${SINGLE} or ${INDEX}, found ${describeFolder(folder)}`)
    }
    // Where both are there, transformers takes the single file; so do we.
    const wanted = existsSync(single) ? undefined : readIndex(index)
    const names = wanted === undefined ? [SINGLE] : [...new Set(wanted.values())].sort()
    const files: SafetensorsFile[] = []
    this.#files = files
    try {
      for (const name of names) files.push(new SafetensorsFile(join(folder, name)))
      for (const file of files) this.#adopt(file)
      if (wanted !== undefined) this.#checkIndex(wanted, index)
    } catch (error) {
      this.close()
      throw error
    }
  }

  #adopt(file: SafetensorsFile): void {
    for (const name of file.entries.keys()) {
      const other = this.#homes.get(name)
      if (other !== undefined) {
        throw new CheckpointError(`${file.path}: tensor ${name} is in ${other.path} too; one of the shards is stale`)
      }
      this.#homes.set(name, file)
    }
  }

  #checkIndex(wanted: ReadonlyMap<string, string>, index: string): void {
    const wrong = [...wanted].filter(([name, file]) => this.#homes.get(name)?.path !== join(this.folder, file))
    if (wrong.length > 0) {
      const names = someNames(wrong.map(([name, file]) => `${name} in ${file}`))
      throw new CheckpointError(`${index}: expected ${names}, but the shards do not hold them there; copy them again`)
    }
  }

  get names(): string[] {
    return [...this.#homes.keys()]
  }

  has(name: string): boolean {
    return this.#homes.has(name)
  }

  /** The open file that holds a tensor. @throws CheckpointError if none does */
  file(name: string): SafetensorsFile {
    const file = this.#homes.get(name)
    if (file === undefined) throw new CheckpointError(`${this.folder}: there is no tensor ${name} in its weights`)
    return file
  }

  entry(name: string): TensorEntry {
    return this.file(name).entry(name)
  }

  /** Elements [from, from + count); see SafetensorsFile.readNumbers. */
  readNumbers(name: string, from = 0, count?: number): Float64Array | Float32Array {
    return this.file(name).readNumbers(name, from, count)
  }

  /** All elements in order, in pieces. */
  chunks(name: string): Iterable<HostArray> {
    return this.file(name).chunks(name)
  }

  close(): void {
    for (const file of this.#files) file.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

function describeFolder(folder: string): string {
  if (!existsSync(folder)) return 'no such folder'
  const names = readdirSync(folder)
  const other = names.find((name) => /\.(bin|pth?|gguf)$/.test(name))
  if (other !== undefined) return `${other}, a format that is not read: convert it to safetensors first`
  return names.length === 0 ? 'an empty folder' : `only ${someNames(names)}`
}

/** tensor name -> shard file. Shards must lie in the folder itself: an index is data from elsewhere. */
function readIndex(path: string): Map<string, string> {
  const map = readJsonObject(path).weight_map
  if (!isJsonObject(map) || Object.keys(map).length === 0) {
    throw new CheckpointError(`${path}: expected weight_map with tensor names and their files, got ${shown(map)}`)
  }
  return new Map(
    Object.entries(map).map(([name, file]) => {
      if (typeof file !== 'string' || !/^[\w.-]+\.safetensors$/.test(file)) {
        throw new CheckpointError(
          `${path}: weight_map of ${name} must name a .safetensors file in the same folder, got ${shown(file)}`,
        )
      }
      return [name, file]
    }),
  )
}

/**
 * Writes tensors into `folder`: one file up to `maxShardBytes`, shards with an index above. A tensor larger than that
 * gets a shard of its own. Weights files that were there before and are not part of the new set are removed.
 */
export async function writeWeightsFolder(
  folder: string,
  sources: readonly TensorSource[],
  options: { maxShardBytes?: number } = {},
): Promise<void> {
  mkdirSync(folder, { recursive: true })
  const shards = cutIntoShards(sources, options.maxShardBytes ?? DEFAULT_MAX_SHARD_BYTES)
  const pad = (n: number): string => String(n).padStart(5, '0')
  const nameOf = (i: number): string =>
    shards.length === 1 ? SINGLE : `model-${pad(i + 1)}-of-${pad(shards.length)}.safetensors`
  const weightMap: Record<string, string> = {}
  for (const [i, shard] of shards.entries()) {
    await writeSafetensors(join(folder, nameOf(i)), shard)
    for (const source of shard) weightMap[source.name] = nameOf(i)
  }
  if (shards.length > 1) {
    const total = sources.reduce((sum, source) => sum + sourceBytes(source), 0)
    await writeJson(join(folder, INDEX), { metadata: { total_size: total }, weight_map: weightMap })
  }
  const kept = new Set([...shards.keys()].map(nameOf))
  if (shards.length > 1) kept.add(INDEX)
  for (const name of readdirSync(folder)) {
    if (/^model(-\d+-of-\d+)?\.safetensors(\.index\.json)?$/.test(name) && !kept.has(name)) rmSync(join(folder, name))
  }
}

/** In the given order, so that the tensors of a layer stay together. */
function cutIntoShards(sources: readonly TensorSource[], maxShardBytes: number): TensorSource[][] {
  const shards: TensorSource[][] = [[]]
  let used = 0
  for (const source of sources) {
    const bytes = sourceBytes(source)
    if (used > 0 && used + bytes > maxShardBytes) {
      shards.push([])
      used = 0
    }
    shards[shards.length - 1]!.push(source)
    used += bytes
  }
  return shards
}
