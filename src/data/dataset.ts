// A prepared token dataset, opened for reading: documents as views of the mapped shards, without a copy. It keeps no
// order and no position: shuffling, packing and resuming are loader.ts.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import { DataError } from '../core/errors.ts'
import { type Manifest, readManifest } from './manifest.ts'
import { mapFile } from './mapped-file.ts'

/** Ids of a document, as stored. Read-only: the memory behind it is a file's. */
export type TokenArray = Uint16Array | Uint32Array

interface Shard {
  readonly tokens: TokenArray
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
    const map = (file: string, bytes: number): ArrayBuffer => {
      const mapped = mapFile(join(folder, file), useMmap)
      if (mapped.buffer.byteLength !== bytes) {
        throw new DataError(
          `data: ${join(folder, file)} expected ${bytes} bytes by its manifest, got ${mapped.buffer.byteLength}; ` +
            'it was cut off or replaced, run data prepare again',
        )
      }
      isMapped &&= mapped.isMapped
      return mapped.buffer
    }
    this.#shards = manifest.shards.map((entry) => {
      const TokenArrayOf = manifest.dtype === 'u16' ? Uint16Array : Uint32Array
      const tokens = new TokenArrayOf(map(entry.file, entry.tokens * TokenArrayOf.BYTES_PER_ELEMENT))
      const index = new Uint32Array(map(entry.documentsFile, (entry.documents + 1) * BYTES_PER_RECORD))
      const shard = { tokens, index, firstDocument }
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

  /** Stored ids of document `i`, with the added BOS / EOS ids: a view, not a copy. */
  documentTokens(i: number): TokenArray {
    const { shard, local } = this.#find(i)
    return shard.tokens.subarray(offset(shard.index, local, 0), offset(shard.index, local + 1, 0))
  }

  /** Number of stored ids of document `i`, at least 1. */
  documentLength(i: number): number {
    const { shard, local } = this.#find(i)
    const length = offset(shard.index, local + 1, 0) - offset(shard.index, local, 0)
    if (!(length > 0)) {
      throw new DataError(
        `data: ${this.folder}: document ${i} has ${length} tokens; its index is damaged, prepare again`,
      )
    }
    return length
  }

  /** UTF-8 bytes of the text of document `i`. */
  documentTextBytes(i: number): number {
    const { shard, local } = this.#find(i)
    return offset(shard.index, local + 1, 1) - offset(shard.index, local, 1)
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
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer)
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
