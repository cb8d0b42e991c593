// Raw text to token datasets: reads documents, divides them between train and validation, encodes them and writes the
// shards of both. It trains no tokenizer and filters nothing by quality.
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { DataError } from '../core/errors.ts'
import { type Document, documentName, ReadReport } from './document.ts'
import type { Encoder } from './encoder.ts'
import type { Manifest } from './manifest.ts'
import { type ReadOptions, readDocuments } from './readers.ts'
import { clearOldDataset, ShardWriter } from './shards.ts'

/** A path (file or folder) with how to read it, or documents that are already at hand. */
export type DataSource =
  | { readonly path: string; readonly read?: ReadOptions | undefined }
  | { readonly name: string; readonly documents: Iterable<Document> | AsyncIterable<Document> }

/**
 * Which documents are held out: a fraction, chosen by a hash of each text (equal texts land on the same side, and
 * adding files moves no document), or the names of documents: `source`, for all of a source, or `source:line`.
 */
export type ValidationChoice =
  | { readonly fraction: number; readonly seed?: number | undefined }
  | { readonly documents: readonly string[] }

export interface PrepareOptions {
  readonly sources: readonly DataSource[]
  readonly tokenizer: Encoder
  /** Receives `train/` and, with `validation`, `validation/`. */
  readonly outDir: string
  readonly validation?: ValidationChoice | undefined
  /** Put the tokenizer's BOS id before every document. Default false. */
  readonly prependBos?: boolean | undefined
  /** Put the tokenizer's EOS id after every document. Default: when the tokenizer has one. */
  readonly appendEos?: boolean | undefined
  readonly maxTokensPerShard?: number | undefined
  readonly overwrite?: boolean | undefined
  /** Called after every document, and waited for. */
  readonly onProgress?: ((progress: PrepareProgress) => void | Promise<void>) | undefined
  /** Called when all documents are encoded, before the manifests make the folders into datasets. */
  readonly beforeFinish?: (() => void) | undefined
  /** Once aborted, the next document ends the work with a DataError, and nothing is left behind. */
  readonly signal?: AbortSignal | undefined
}

export interface PrepareProgress {
  readonly documents: number
  readonly tokens: number
  readonly textBytes: number
  /** Source of the document just done. */
  readonly source: string
}

export interface PreparedData {
  readonly trainDir: string
  readonly train: Manifest
  readonly validationDir?: string
  readonly validation?: Manifest
  readonly report: ReadReport
}

/**
 * Prepares token datasets. Documents keep their order; the loader shuffles. Both manifests carry the counts of what
 * was dropped from the sources together.
 * @throws DataError if nothing usable is left for train or for validation, a listed validation document is not among
 *   the sources, the tokenizer lacks an id that is asked for, or the folder already holds a dataset
 */
export async function prepareData(options: PrepareOptions): Promise<PreparedData> {
  const added = addedIds(options)
  const isHeldOut = holdOut(options.validation)
  const report = new ReadReport()
  const trainDir = join(options.outDir, 'train')
  const validationDir = join(options.outDir, 'validation')
  const train = new SplitWriter(trainDir, 'train', options, added)
  const validation =
    options.validation === undefined ? undefined : new SplitWriter(validationDir, 'validation', options, added)
  // A validation split of an earlier run must not stay beside the new train split.
  if (validation === undefined) clearOldDataset(validationDir, options.overwrite ?? false)
  try {
    const progress = { documents: 0, tokens: 0, textBytes: 0 }
    for (const source of options.sources) {
      const name = 'path' in source ? source.path : source.name
      for await (const document of documentsOf(source, report)) {
        const tokens = withAddedIds(options.tokenizer.encode(document.text), added, document)
        const textBytes = Buffer.byteLength(document.text)
        const split = validation !== undefined && isHeldOut.has(document) ? validation : train
        split.add(name, tokens, textBytes)
        progress.documents++
        progress.tokens += tokens.length
        progress.textBytes += textBytes
        await options.onProgress?.({ ...progress, source: document.source })
        if (options.signal?.aborted) {
          throw new DataError(
            `data: interrupted after ${progress.documents} documents; nothing was written, start again`,
          )
        }
      }
    }
    isHeldOut.checkAllFound()
    checkNotEmpty(options, report, train, validation)
    options.beforeFinish?.()
    // Train comes last: where it is finished, everything is.
    const heldOut = validation && { validationDir, validation: validation.finish(report) }
    return { trainDir, train: train.finish(report), report, ...heldOut }
  } catch (error) {
    train.abort()
    validation?.abort()
    throw error
  }
}

interface AddedIds {
  readonly bosTokenId?: number
  readonly eosTokenId?: number
}

function addedIds({ tokenizer, prependBos, appendEos }: PrepareOptions): AddedIds {
  if (prependBos && tokenizer.bosTokenId === undefined) {
    throw new DataError('data: prependBos expected a tokenizer with a BOS token, but it has none; leave prependBos off')
  }
  if (appendEos && tokenizer.eosTokenId === undefined) {
    throw new DataError('data: appendEos expected a tokenizer with an EOS token, but it has none; set appendEos false')
  }
  return {
    ...(prependBos ? { bosTokenId: tokenizer.bosTokenId! } : {}),
    ...((appendEos ?? true) && tokenizer.eosTokenId !== undefined ? { eosTokenId: tokenizer.eosTokenId } : {}),
  }
}

function withAddedIds(ids: ArrayLike<number>, { bosTokenId, eosTokenId }: AddedIds, document: Document): Uint32Array {
  if (ids.length === 0) {
    throw new DataError(`data: the tokenizer gave no token for ${documentName(document)}; it cannot encode this text`)
  }
  if (bosTokenId !== undefined && ids[0] === bosTokenId) {
    throw new DataError(
      `data: ${documentName(document)} would begin with BOS twice (id ${bosTokenId}): ` +
        'the tokenizer adds it itself, or the text begins with it; set prependBos false',
    )
  }
  const before = bosTokenId === undefined ? 0 : 1
  const tokens = new Uint32Array(before + ids.length + (eosTokenId === undefined ? 0 : 1))
  if (bosTokenId !== undefined) tokens[0] = bosTokenId
  tokens.set(ids, before)
  if (eosTokenId !== undefined) tokens[tokens.length - 1] = eosTokenId
  return tokens
}

async function* documentsOf(source: DataSource, report: ReadReport): AsyncGenerator<Document> {
  if ('path' in source) {
    yield* readDocuments([source.path], source.read ?? {}, report)
    return
  }
  for await (const document of source.documents) {
    if (document.text.trim() === '') report.drop('empty', document.source, document.line ?? 1, 'no text')
    else yield document
  }
}

/** One split being written, with its counts by source. */
class SplitWriter {
  documents = 0
  readonly #writer: ShardWriter
  readonly #sources = new Map<string, { name: string; documents: number; textBytes: number; tokens: number }>()

  constructor(folder: string, split: string, options: PrepareOptions, added: AddedIds) {
    this.#writer = new ShardWriter(folder, {
      split,
      tokenizer: options.tokenizer,
      ...added,
      maxTokensPerShard: options.maxTokensPerShard,
      overwrite: options.overwrite,
    })
  }

  add(source: string, tokens: Uint32Array, textBytes: number): void {
    this.#writer.add(tokens, textBytes)
    this.documents++
    const counts = this.#sources.get(source) ?? { name: source, documents: 0, textBytes: 0, tokens: 0 }
    counts.documents++
    counts.textBytes += textBytes
    counts.tokens += tokens.length
    this.#sources.set(source, counts)
  }

  finish(report: ReadReport): Manifest {
    return this.#writer.finish({
      sources: [...this.#sources.values()],
      dropped: { ...report.dropped } as Record<string, number>,
      replacedBytes: report.replacedBytes,
      dropExamples: report.examples,
    })
  }

  abort(): void {
    this.#writer.abort()
  }
}

export interface HeldOut {
  has(document: Document): boolean
  /** @throws DataError if a listed document was never seen */
  checkAllFound(): void
}

/** The documents that `choice` holds out. */
export function holdOut(choice: ValidationChoice | undefined): HeldOut {
  if (choice === undefined) return { has: () => false, checkAllFound: () => {} }
  if ('documents' in choice) {
    const missing = new Set(choice.documents)
    const listed = new Set(choice.documents)
    return {
      has: (document) => {
        const names = [document.source, documentName(document)].filter((name) => listed.has(name))
        for (const name of names) missing.delete(name)
        return names.length > 0
      },
      checkAllFound: () => {
        if (missing.size === 0) return
        throw new DataError(
          `data: ${missing.size} of ${listed.size} validation documents are not among the sources, first: ` +
            `${[...missing][0]}; documents are named by their path, or path:line`,
        )
      },
    }
  }
  const { fraction, seed = 0 } = choice
  if (!(fraction > 0 && fraction < 1)) {
    throw new DataError(`data: the validation fraction expected a number between 0 and 1, got ${fraction}`)
  }
  return {
    has: ({ text }) => {
      const digest = createHash('sha256').update(`${seed}\n`).update(text).digest()
      return digest.readUIntBE(0, 6) / 2 ** 48 < fraction
    },
    checkAllFound: () => {},
  }
}

function checkNotEmpty(
  options: PrepareOptions,
  report: ReadReport,
  train: SplitWriter,
  validation: SplitWriter | undefined,
): void {
  const documents = train.documents + (validation?.documents ?? 0)
  if (documents === 0) {
    const names = options.sources.map((source) => ('path' in source ? source.path : source.name)).join(', ')
    const dropped = report.describeDropped()
    throw new DataError(
      `data: no document of ${names || 'no sources'} can be used; ` +
        (dropped === ''
          ? 'nothing was found there, check the paths'
          : `dropped: ${dropped}; check --field and the files`),
    )
  }
  const empty = train.documents === 0 ? 'train' : validation?.documents === 0 ? 'validation' : undefined
  if (empty !== undefined) {
    throw new DataError(
      `data: all ${documents} documents fell to one side and none to ${empty}; change the validation fraction, ` +
        'list validation documents by name, or cut the text into more documents (--split blank-lines)',
    )
  }
}
