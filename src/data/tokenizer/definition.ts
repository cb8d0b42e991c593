// Everything that decides the ids of a text, as data: what files are read into and written from, with its checks, its
// decoding table and its hash. Encodes nothing itself.
import { createHash } from 'node:crypto'
import { TokenizerError } from '../../core/errors.ts'
import type { AddedToken } from './added-tokens.ts'
import type { Merge } from './merge.ts'

/** Everything that decides the ids of a text. */
export interface TokenizerDefinition {
  /**
   * 'bytes': symbols are bytes. 'byteFallback': symbols are characters, and bytes <0xNN> where a character has no
   * token; a space is U+2581, and one is put before the text.
   */
  readonly kind: 'bytes' | 'byteFallback'
  /** Bytes of each id ('byteFallback': of the token as it is written); undefined where only an added token is. */
  readonly vocabulary: readonly (Uint8Array | undefined)[]
  /** In order of rank. */
  readonly merges: readonly Merge[]
  /** Splitting pattern; '' for none, as with 'byteFallback'. */
  readonly pattern: string
  /** A piece that is a token as a whole is taken as it is, whatever the merges say (Llama 3, tiktoken). */
  readonly ignoreMerges: boolean
  /** Unicode normalization applied first. */
  readonly normalization: '' | 'NFC'
  readonly addedTokens: readonly AddedToken[]
  readonly bosTokenId?: number | undefined
  readonly eosTokenId?: number | undefined
  /** What 'byteFallback' files call the unknown token; it stands for nothing here, since every byte has a token. */
  readonly unkTokenId?: number | undefined
  /** Whether `addSpecialTokens` puts the BOS token in front. */
  readonly addsBos: boolean
  /** tokenizer_config.json as it was read (chat template, padding token ...), passed on when saving; decides no id. */
  readonly config?: Readonly<Record<string, unknown>> | undefined
}

/** One above the largest id that is accepted: a damaged file must not ask for gigabytes. */
export const MAX_VOCAB_SIZE = 1 << 22

/** What Llama 2's vocabulary writes for a space. */
export const SPACE = '\u2581'
const BYTE_TOKEN = /^<0x([0-9A-F]{2})>$/
const encoder = new TextEncoder()

/** @throws TokenizerError if a definition contradicts itself or is beyond bounds */
export function checkDefinition({ kind, vocabulary, addedTokens, addsBos, bosTokenId }: TokenizerDefinition): void {
  const fail = (problem: string): never => {
    throw new TokenizerError(`tokenizer: ${problem}`)
  }
  if (vocabulary.length > MAX_VOCAB_SIZE) {
    fail(`expected at most ${MAX_VOCAB_SIZE} tokens, got ${vocabulary.length}; the file is damaged`)
  }
  if (addsBos && !addedTokens.some(({ id }) => id === bosTokenId)) {
    fail('it is to put BOS before every text, but none of its added tokens is BOS')
  }
  const contents = new Map<string, number>()
  const ids = new Set<number>()
  for (const { id, content, normalized } of addedTokens) {
    const name = JSON.stringify(content)
    if (!Number.isInteger(id) || id < 0 || id >= MAX_VOCAB_SIZE) {
      fail(`added token ${name} has id ${id}, expected a whole number from 0 to ${MAX_VOCAB_SIZE - 1}`)
    }
    if (content === '' || !content.isWellFormed()) fail(`added token ${id} is ${name}, expected text`)
    if (contents.has(content)) fail(`added token ${name} is listed twice, with ids ${contents.get(content)} and ${id}`)
    if (ids.has(id)) fail(`id ${id} belongs to two added tokens, one of them ${name}`)
    if (normalized && kind === 'byteFallback') {
      fail(`added token ${name} is to be found in normalized text, which is not supported with byte fallback`)
    }
    contents.set(content, id)
    ids.add(id)
  }
}

/**
 * The vocabulary less what is there only because the token is an added one (files differ in that, ids do not), so that
 * plain text can never become a special token.
 */
export function withoutAdded({
  vocabulary,
  addedTokens,
  merges,
  kind,
}: TokenizerDefinition): (Uint8Array | undefined)[] {
  const made = new Set(merges.map(([, , id]) => id))
  const result = [...vocabulary]
  for (const { id } of addedTokens) {
    const bytes = result[id]
    if (bytes === undefined || made.has(id)) continue
    const isSymbol = kind === 'bytes' ? bytes.length === 1 : BYTE_TOKEN.test(textOf(bytes))
    if (!isSymbol) result[id] = undefined
  }
  while (result.length > 0 && result.at(-1) === undefined) result.pop()
  return result
}

/** What ids decode to, and the ids of the 256 bytes. @throws TokenizerError if a byte has no token */
export function decodingTable({ kind, vocabulary }: TokenizerDefinition): {
  bytes: (Uint8Array | undefined)[]
  byteIds: Int32Array
} {
  const byteIds = new Int32Array(256).fill(-1)
  const bytes = vocabulary.map((token, id) => {
    if (token === undefined) return undefined
    if (kind === 'bytes') {
      if (token.length === 1) byteIds[token[0]!] = id
      return token
    }
    const text = textOf(token)
    const byte = BYTE_TOKEN.exec(text)?.[1]
    if (byte === undefined) return encoder.encode(text.replaceAll(SPACE, ' '))
    byteIds[Number.parseInt(byte, 16)] = id
    return Uint8Array.of(Number.parseInt(byte, 16))
  })
  const missing = byteIds.indexOf(-1)
  if (missing >= 0) {
    throw new TokenizerError(
      `tokenizer: expected a token for each of the 256 bytes, but byte 0x${missing.toString(16).padStart(2, '0')} has none; vocabularies that cannot spell every text are not supported`,
    )
  }
  return { bytes, byteIds }
}

/** Bytes as text. */
export function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8')
}

/** The text of bytes that are whole characters, else undefined. */
export function exactText(bytes: Uint8Array): string | undefined {
  const text = textOf(bytes)
  return text.includes('\ufffd') && Buffer.compare(encoder.encode(text), bytes) !== 0 ? undefined : text
}

/** Bytes as a string of the same length, to serve as a Map key. */
export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

/** sha-256, hexadecimal; equal for definitions that give equal ids, however their files are written. */
export function hashOf(definition: TokenizerDefinition): string {
  const { kind, pattern, ignoreMerges, normalization, addsBos, bosTokenId, eosTokenId } = definition
  const added = [...definition.addedTokens]
    .sort((a, b) => a.id - b.id)
    .map((t) => [t.id, t.content, t.special, !!t.lstrip, !!t.rstrip, !!t.singleWord, !!t.normalized])
  const about = [kind, pattern, ignoreMerges, normalization, addsBos, bosTokenId ?? null, eosTokenId ?? null, added]
  const tokens = definition.vocabulary.map((bytes) => (bytes === undefined ? '-' : `${bytes.length}:${latin1(bytes)}`))
  const hash = createHash('sha256').update(JSON.stringify(about))
  hash.update(tokens.join('\n'), 'latin1')
  hash.update(definition.merges.map((merge) => merge.join(' ')).join('\n'))
  return hash.digest('hex')
}
