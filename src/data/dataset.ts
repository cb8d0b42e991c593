// A prepared token dataset, opened for reading: documents as views of the mapped shards, without a copy. It keeps no
// order and no position: shuffling, packing and resuming are loader.ts.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import { DataError } from '../core/errors.ts'
import { type HostBatch, NO_TARGET } from './host-batch.ts'
import { type Manifest, readManifest } from './manifest.ts'
import { type MappedFile, mapFile } from './mapped-file.ts'

/** Ids of a document, as stored. Read-only: the memory behind it is a file's. */
export type TokenArray = Uint16Array | Uint32Array

interface Shard {
  readonly tokens: TokenArray
  /** @throws DataError if the file behind the tokens has been cut off since */
  checkWhole(): void
  /** The document index as 32-bit words: low, high of the token offset, low, high of the byte offset, and so on. */
  readonly index: Uint32Array
  readonly firstDocument: number
}

const WORDS_PER_RECORD = 4
const BYTES_PER_RECORD = 16

export class TokenDataset {
  readonly folder: string
  readonly manifest: Manifest
  /** False if a shard had to be read into memory because it could not be mapped. */
  readonly isMapped: boolean
  readonly #shards: readonly Shard[]

  /**
   * Opens the dataset in `folder`. Checks the manifest and every file's size; `verify` checks the contents.
   * @param options.useMmap  false: read the shards into memory instead of mapping them
   * @throws DataError if the manifest is missing, of another version or damaged, or a file's size is not as it says
   */
  static open(folder: string, options: { useMmap?: boolean } = {}): TokenDataset {
    return new TokenDataset(folder, readManifest(folder), options.useMmap ?? true)
  }

  private constructor(folder: string, manifest: Manifest, useMmap: boolean) {
    this.folder = folder
    this.manifest = manifest
    let isMapped = true
    let firstDocument = 0
    const open = (file: string, bytes: number, isToMap: boolean): MappedFile => {
      const mapped = mapFile(join(folder, file), isToMap)
      if (mapped.buffer.byteLength !== bytes) {
        throw new DataError(
          `data: ${join(folder, file)} expected ${bytes} bytes by its manifest, got ${mapped.buffer.byteLength}; ` +
            'it was cut off or replaced, run data prepare again',
        )
      }
      return mapped
    }
    this.#shards = manifest.shards.map((entry) => {
      const TokenArrayOf = manifest.dtype === 'u16' ? Uint16Array : Uint32Array
      const mapped = open(entry.file, entry.tokens * TokenArrayOf.BYTES_PER_ELEMENT, useMmap)
      isMapped &&= mapped.isMapped
      const tokens = new TokenArrayOf(mapped.buffer)
      // Not mapped: every epoch looks at all of it, and nobody should have to ask each time whether it is still there.
      const index = new Uint32Array(open(entry.documentsFile, (entry.documents + 1) * BYTES_PER_RECORD, false).buffer)
      const shard = { tokens, index, firstDocument, checkWhole: () => mapped.checkWhole() }
      firstDocument += entry.documents
      if (offset(index, 0, 0) !== 0 || offset(index, entry.documents, 0) !== entry.tokens) {
        throw new DataError(
          `data: ${join(folder, entry.documentsFile)} expected offsets from 0 to ${entry.tokens}, got ` +
            `${offset(index, 0, 0)} to ${offset(index, entry.documents, 0)}; it is damaged, run data prepare again`,
        )
      }
      return shard
    })
    this.isMapped = isMapped
  }

  get documentCount(): number {
    return this.manifest.totalDocuments
  }

  get totalTokens(): number {
    return this.manifest.totalTokens
  }

  /** UTF-8 bytes of the text of all documents. */
  get totalTextBytes(): number {
    return this.manifest.totalTextBytes
  }

  /**
   * Stored ids of document `i`, with the added BOS / EOS ids: a view, not a copy, to be used at once. The ids are as they
   * are in the file; `checkIds` is for who hands them on to a model.
   * @throws DataError if the index is damaged or the file has been cut off
   */
  documentTokens(i: number): TokenArray {
    const { shard, local } = this.#find(i)
    const [from, to] = this.#span(i, shard, local)
    shard.checkWhole()
    return shard.tokens.subarray(from, to)
  }

  /** Number of stored ids of document `i`, at least 1. @throws DataError if the index is damaged */
  documentLength(i: number): number {
    const { shard, local } = this.#find(i)
    const [from, to] = this.#span(i, shard, local)
    return to - from
  }

  /** UTF-8 bytes of the text of document `i`. @throws DataError if the index is damaged */
  documentTextBytes(i: number): number {
    const { shard, local } = this.#find(i)
    const bytes = offset(shard.index, local + 1, 1) - offset(shard.index, local, 1)
    if (!(bytes >= 0 && bytes <= this.totalTextBytes)) throw this.#damagedIndex(i, `${bytes} bytes of text`)
    return bytes
  }

  /** @throws DataError for an id outside the vocabulary: a kernel that looks it up would read memory that is not its own */
  checkIds({ tokens, targets }: Pick<HostBatch, 'tokens' | 'targets'>): void {
    const { vocabSize } = this.manifest.tokenizer
    for (let k = 0; k < tokens.length; k++) {
      const isRight = tokens[k]! >= 0 && tokens[k]! < vocabSize && targets[k]! >= NO_TARGET && targets[k]! < vocabSize
      if (isRight) continue
      const wrong = tokens[k]! >= 0 && tokens[k]! < vocabSize ? targets[k]! : tokens[k]!
      throw new DataError(
        `data: ${this.folder} holds token id ${wrong >>> 0}, expected ids below vocabSize=${vocabSize}; a shard is damaged, run data prepare again`,
      )
    }
  }

  /** Tokens [from, to) of document `i` in its shard. */
  #span(i: number, shard: Shard, local: number): [number, number] {
    const from = offset(shard.index, local, 0)
    const to = offset(shard.index, local + 1, 0)
    if (!(from < to && to <= shard.tokens.length)) throw this.#damagedIndex(i, `tokens ${from} to ${to}`)
    return [from, to]
  }

  #damagedIndex(i: number, what: string): DataError {
    return new DataError(
      `data: ${this.folder}: document ${i} has ${what}; its index is damaged, run data prepare again`,
    )
  }

  /** Hashes every file. @throws DataError naming the first file whose contents are not those that were written */
  async verify(): Promise<void> {
    for (const entry of this.manifest.shards) {
      await this.#verifyFile(entry.file, entry.sha256)
      await this.#verifyFile(entry.documentsFile, entry.documentsSha256)
    }
  }

  async #verifyFile(file: string, expected: string): Promise<void> {
    const path = join(this.folder, file)
    const hash = createHash('sha256')
    try {
      for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer)
    } catch (cause) {
      throw new DataError(`data: ${path} cannot be read to its end (${(cause as Error).message})`, { cause })
    }
    const got = hash.digest('hex')
    if (got !== expected) {
      throw new DataError(
        `data: ${path} expected SHA-256 ${expected}, got ${got}; it is damaged, run data prepare again`,
      )
    }
  }

  #find(i: number): { shard: Shard; local: number } {
    if (!(Number.isInteger(i) && i >= 0 && i < this.documentCount)) {
      throw new DataError(`data: document ${i} expected in [0, ${this.documentCount}) of ${this.folder}`)
    }
    let low = 0
    let high = this.#shards.length - 1
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      if (this.#shards[middle]!.firstDocument <= i) low = middle
      else high = middle - 1
    }
    const shard = this.#shards[low]!
    return { shard, local: i - shard.firstDocument }
  }
}

/** u64 at record `record`, column 0 (tokens) or 1 (text bytes). Exact: all offsets are below 2^53. */
function offset(index: Uint32Array, record: number, column: 0 | 1): number {
  const at = record * WORDS_PER_RECORD + column * 2
  return index[at]! + index[at + 1]! * 2 ** 32
}
