// The manifest of a token dataset: what its files are, which tokenizer made them and what went in. It is written
// last, so a folder without one is unfinished. Reading the tokens is dataset.ts.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { DataError } from '../core/errors.ts'
import { parseJson, shown } from '../core/json.ts'

export const MANIFEST_FILE = 'manifest.json'
export const MANIFEST_FORMAT = 'trainyard-tokens'
export const MANIFEST_VERSION = 1
/** Largest vocabulary whose ids fit in 16 bits. */
export const MAX_U16_VOCAB_SIZE = 65536

const count = z.int().nonnegative()
const sha256 = z.string().regex(/^[0-9a-f]{64}$/)
const fileName = z.string().regex(/^[\w-]+\.bin$/, 'a plain file name that ends in .bin')

const shard = z.object({
  file: fileName,
  tokens: count,
  sha256,
  documents: count,
  documentsFile: fileName,
  documentsSha256: sha256,
})

const manifestSchema = z.object({
  format: z.literal(MANIFEST_FORMAT),
  version: z.literal(MANIFEST_VERSION),
  split: z.string(),
  dtype: z.enum(['u16', 'u32']),
  tokenizer: z.object({ hash: z.string(), vocabSize: z.int().positive() }),
  bosTokenId: count.nullable(),
  eosTokenId: count.nullable(),
  totalTokens: count,
  totalDocuments: count,
  totalTextBytes: count,
  contentHash: sha256,
  documentIndex: z.string(),
  shards: z.array(shard),
  sources: z.array(z.object({ name: z.string(), documents: count, textBytes: count, tokens: count })),
  dropped: z.record(z.string(), count),
  replacedBytes: count,
  dropExamples: z.array(z.object({ reason: z.string(), source: z.string(), line: count, detail: z.string() })),
})

export type ShardEntry = z.infer<typeof shard>

/**
 * `manifest.json`. Ids are little-endian `dtype`. `bosTokenId` / `eosTokenId`: the id written before / after every
 * document, or null. `totalTextBytes`: UTF-8 bytes of the documents' text. `contentHash`: see `contentHashOf`.
 */
export type Manifest = z.infer<typeof manifestSchema>

/** What is in a shard's documents file; also written into the manifest for readers in other languages. */
export const DOCUMENT_INDEX_DESCRIPTION =
  'documentsFile: for document i of the shard, and once more for the end, two little-endian u64: index of its first ' +
  'token in the shard, and number of UTF-8 text bytes of the documents before it in the shard'

/**
 * Hash of all that training depends on: the tokens, where documents begin, the tokenizer and the added ids. Paths and
 * counts of dropped records do not enter, so moving or renaming the raw files changes nothing.
 */
export function contentHashOf(
  manifest: Pick<Manifest, 'dtype' | 'tokenizer' | 'bosTokenId' | 'eosTokenId' | 'shards'>,
): string {
  const parts = [
    MANIFEST_FORMAT,
    MANIFEST_VERSION,
    manifest.dtype,
    manifest.tokenizer.hash,
    manifest.tokenizer.vocabSize,
    manifest.bosTokenId,
    manifest.eosTokenId,
    ...manifest.shards.map((entry) => [entry.tokens, entry.sha256, entry.documents, entry.documentsSha256]),
  ]
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex')
}

/** Reads and checks a manifest, not yet the files it names. @throws DataError with what is wrong and what to do */
export function readManifest(folder: string): Manifest {
  const path = join(folder, MANIFEST_FILE)
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new DataError(
      `data: expected a token dataset with ${MANIFEST_FILE} in ${folder}, but there is none; ` +
        'preparing was not finished, or this is another folder: run data prepare',
      { cause },
    )
  }
  let value: unknown
  try {
    value = parseJson(text)
  } catch (cause) {
    throw new DataError(`data: ${path} is not valid JSON; it is damaged, run data prepare again`, { cause })
  }
  const { format, version } = (value ?? {}) as { format?: unknown; version?: unknown }
  if (format !== MANIFEST_FORMAT) {
    throw new DataError(`data: ${path} expected format '${MANIFEST_FORMAT}', got ${shown(format)}`)
  }
  if (version !== MANIFEST_VERSION) {
    throw new DataError(
      `data: ${path} expected version ${MANIFEST_VERSION}, got ${shown(version)}; ` +
        'it was made by another version of Trainyard, run data prepare again',
    )
  }
  const parsed = manifestSchema.safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw new DataError(
      `data: ${path} is damaged at ${issue.path.join('.') || 'its top'}: ${issue.message.replace('received undefined', 'got nothing')}; run data prepare again`,
    )
  }
  checkSums(parsed.data, path)
  return parsed.data
}

/** The manifest against itself: totals, dtype and hash. */
function checkSums(manifest: Manifest, path: string): void {
  const wrong = (what: string, expected: unknown, got: unknown): DataError =>
    new DataError(
      `data: ${path} expected ${what} ${expected}, got ${shown(got)}; it was edited or damaged, prepare again`,
    )
  const tokens = manifest.shards.reduce((sum, entry) => sum + entry.tokens, 0)
  const documents = manifest.shards.reduce((sum, entry) => sum + entry.documents, 0)
  if (tokens !== manifest.totalTokens) throw wrong('totalTokens', tokens, manifest.totalTokens)
  if (documents !== manifest.totalDocuments) throw wrong('totalDocuments', documents, manifest.totalDocuments)
  const dtype = dtypeForVocab(manifest.tokenizer.vocabSize)
  if (dtype !== manifest.dtype) throw wrong('dtype', dtype, manifest.dtype)
  const hash = contentHashOf(manifest)
  if (hash !== manifest.contentHash) throw wrong('contentHash', hash, manifest.contentHash)
}

/** u16 where every id fits, else u32. */
export function dtypeForVocab(vocabSize: number): 'u16' | 'u32' {
  return vocabSize <= MAX_U16_VOCAB_SIZE ? 'u16' : 'u32'
}
