// Writes a token dataset: shards of ids, their document indexes, and the manifest last. Every file appears whole or
// not at all. Encoding and reading documents are prepare.ts and readers.ts; reading shards is dataset.ts.
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { DataError } from '../core/errors.ts'
import { AtomicFile } from './atomic-file.ts'
import {
  contentHashOf,
  DOCUMENT_INDEX_DESCRIPTION,
  dtypeForVocab,
  MANIFEST_FILE,
  MANIFEST_FORMAT,
  MANIFEST_VERSION,
  type Manifest,
  type ShardEntry,
} from './manifest.ts'

export interface ShardWriterOptions {
  readonly split: string
  readonly tokenizer: { readonly hash: string; readonly vocabSize: number }
  /** Id that the caller puts before every document, for the manifest. */
  readonly bosTokenId?: number | undefined
  /** Id that the caller puts after every document, for the manifest. */
  readonly eosTokenId?: number | undefined
  /** A shard is closed before it would grow beyond this; a longer document has a shard of its own. Default 1e8. */
  readonly maxTokensPerShard?: number | undefined
  /** Replace a dataset that is already in the folder. Default false: refuse. */
  readonly overwrite?: boolean | undefined
}

/** What the manifest says beside what the writer has counted itself. */
export type ManifestNotes = Pick<Manifest, 'sources' | 'dropped' | 'replacedBytes' | 'dropExamples'>

const DEFAULT_MAX_TOKENS_PER_SHARD = 100_000_000
const BUFFER_TOKENS = 1 << 18
/** u64 words of the document index held before they are written. */
const INDEX_WORDS = 1 << 12

interface OpenShard {
  readonly tokensFile: AtomicFile
  readonly documentsFile: AtomicFile
  readonly names: { file: string; documentsFile: string }
  tokens: number
  documents: number
  textBytes: number
}

export class ShardWriter {
  readonly #folder: string
  readonly #options: ShardWriterOptions
  readonly #maxTokens: number
  readonly #buffer: Uint16Array | Uint32Array
  #buffered = 0
  readonly #index = new BigUint64Array(INDEX_WORDS)
  #indexed = 0
  #open: OpenShard | undefined
  readonly #shards: ShardEntry[] = []
  #totalTokens = 0
  #totalDocuments = 0
  #totalTextBytes = 0

  /** @throws DataError if the folder already holds a dataset and `overwrite` is not set */
  constructor(folder: string, options: ShardWriterOptions) {
    this.#folder = folder
    this.#options = options
    this.#maxTokens = options.maxTokensPerShard ?? DEFAULT_MAX_TOKENS_PER_SHARD
    if (!(this.#maxTokens >= 1)) {
      throw new DataError(`data: maxTokensPerShard expected at least 1, got ${this.#maxTokens}`)
    }
    this.#buffer =
      dtypeForVocab(options.tokenizer.vocabSize) === 'u16'
        ? new Uint16Array(BUFFER_TOKENS)
        : new Uint32Array(BUFFER_TOKENS)
    mkdirSync(folder, { recursive: true })
    clearOldDataset(folder, options.overwrite ?? false)
  }

  get totalTokens(): number {
    return this.#totalTokens
  }

  /**
   * Appends one document.
   * @param tokens     its ids, with the added ones, at least one
   * @param textBytes  UTF-8 bytes of its text
   * @throws DataError for an id outside the vocabulary or a document without ids
   */
  add(tokens: ArrayLike<number>, textBytes: number): void {
    if (tokens.length === 0) throw new DataError('data: a document expected at least one token, got none; leave it out')
    if (this.#open !== undefined && this.#open.tokens + tokens.length > this.#maxTokens) this.#close()
    this.#open ??= this.#openShard()
    const open = this.#open
    this.#pushIndex(open)
    const { vocabSize } = this.#options.tokenizer
    for (let k = 0; k < tokens.length; k++) {
      const id = tokens[k]!
      if (!(id >= 0 && id < vocabSize)) {
        throw new DataError(
          `data: the tokenizer gave id ${id}, expected one in [0, vocabSize=${vocabSize}); its vocabSize is wrong`,
        )
      }
      if (this.#buffered === BUFFER_TOKENS) this.#flushTokens(open)
      this.#buffer[this.#buffered++] = id
    }
    open.tokens += tokens.length
    open.documents++
    open.textBytes += textBytes
    this.#totalTokens += tokens.length
    this.#totalDocuments++
    this.#totalTextBytes += textBytes
  }

  /** Completes the last shard and writes the manifest. The writer is used up. */
  finish(notes: ManifestNotes): Manifest {
    this.#close()
    const { split, tokenizer } = this.#options
    const content = {
      dtype: dtypeForVocab(tokenizer.vocabSize),
      tokenizer: { hash: tokenizer.hash, vocabSize: tokenizer.vocabSize },
      bosTokenId: this.#options.bosTokenId ?? null,
      eosTokenId: this.#options.eosTokenId ?? null,
      shards: this.#shards,
    }
    const manifest: Manifest = {
      format: MANIFEST_FORMAT,
      version: MANIFEST_VERSION,
      split,
      ...content,
      totalTokens: this.#totalTokens,
      totalDocuments: this.#totalDocuments,
      totalTextBytes: this.#totalTextBytes,
      contentHash: contentHashOf(content),
      documentIndex: DOCUMENT_INDEX_DESCRIPTION,
      ...notes,
    }
    const file = new AtomicFile(join(this.#folder, MANIFEST_FILE))
    file.write(Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`))
    file.commit()
    return manifest
  }

  /** Gives up: removes what it has written. */
  abort(): void {
    this.#open?.tokensFile.abort()
    this.#open?.documentsFile.abort()
    this.#open = undefined
    clearOldDataset(this.#folder, true)
  }

  #openShard(): OpenShard {
    const number = String(this.#shards.length).padStart(5, '0')
    const names = { file: `tokens-${number}.bin`, documentsFile: `documents-${number}.bin` }
    return {
      tokensFile: new AtomicFile(join(this.#folder, names.file)),
      documentsFile: new AtomicFile(join(this.#folder, names.documentsFile)),
      names,
      tokens: 0,
      documents: 0,
      textBytes: 0,
    }
  }

  #close(): void {
    const open = this.#open
    if (open === undefined) return
    this.#pushIndex(open)
    this.#flushIndex(open)
    this.#flushTokens(open)
    this.#shards.push({
      file: open.names.file,
      tokens: open.tokens,
      sha256: open.tokensFile.commit(),
      documents: open.documents,
      documentsFile: open.names.documentsFile,
      documentsSha256: open.documentsFile.commit(),
    })
    this.#open = undefined
  }

  #pushIndex(open: OpenShard): void {
    if (this.#indexed === INDEX_WORDS) this.#flushIndex(open)
    this.#index[this.#indexed++] = BigInt(open.tokens)
    this.#index[this.#indexed++] = BigInt(open.textBytes)
  }

  #flushIndex(open: OpenShard): void {
    open.documentsFile.write(new Uint8Array(this.#index.buffer, 0, this.#indexed * 8))
    this.#indexed = 0
  }

  #flushTokens(open: OpenShard): void {
    const bytes = this.#buffered * this.#buffer.BYTES_PER_ELEMENT
    open.tokensFile.write(new Uint8Array(this.#buffer.buffer, 0, bytes))
    this.#buffered = 0
  }
}

/** Files this writer makes; nothing else in the folder is ever touched. */
const OWN_FILE = /^\.?((tokens|documents)-\d{5}\.bin|manifest\.json)(\.partial)?$/

/**
 * Removes a dataset's files from `folder`, the manifest first; does nothing if there is no such folder.
 * @throws DataError if a finished dataset is there and `overwrite` is false
 */
export function clearOldDataset(folder: string, overwrite: boolean): void {
  if (!existsSync(folder)) return
  const manifest = join(folder, MANIFEST_FILE)
  if (existsSync(manifest)) {
    if (!overwrite) {
      throw new DataError(`data: ${folder} already holds a token dataset; choose another folder, or say overwrite`)
    }
    // First of all, so that a crash from here on leaves an unfinished dataset and not a wrong one.
    rmSync(manifest)
  }
  for (const name of readdirSync(folder)) if (OWN_FILE.test(name)) rmSync(join(folder, name))
}
