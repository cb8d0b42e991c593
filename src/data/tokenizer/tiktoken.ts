// tiktoken's rank files: one token a line, its bytes in base64 and its rank, which is its id. Pattern and special tokens
// are not in the file; published encodings are known by name. Pieces are joined by the rank of what they make.
import { readFileSync } from 'node:fs'
import { TokenizerError } from '../../core/errors.ts'
import type { AddedToken } from './added-tokens.ts'
import { latin1, MAX_VOCAB_SIZE } from './definition.ts'
import { type Merge, MergeTable, mergeAll } from './merge.ts'
import { GPT2_PATTERN, LLAMA3_PATTERN, O200K_PATTERN } from './pretokenize.ts'
import { type Tokenizer, tokenizerOfFile } from './tokenizer.ts'

/** What a rank file does not say. */
export interface TiktokenEncoding {
  readonly pattern: string
  /** Ids of the special tokens by their text. `<|endoftext|>` becomes EOS. */
  readonly specialTokens: Readonly<Record<string, number>>
}

const R50K: TiktokenEncoding = { pattern: GPT2_PATTERN, specialTokens: { '<|endoftext|>': 50256 } }

/** The published encodings. */
export const TIKTOKEN_ENCODINGS: Readonly<Record<string, TiktokenEncoding>> = {
  gpt2: R50K,
  r50k_base: R50K,
  cl100k_base: {
    pattern: LLAMA3_PATTERN,
    specialTokens: {
      '<|endoftext|>': 100257,
      '<|fim_prefix|>': 100258,
      '<|fim_middle|>': 100259,
      '<|fim_suffix|>': 100260,
      '<|endofprompt|>': 100276,
    },
  },
  o200k_base: { pattern: O200K_PATTERN, specialTokens: { '<|endoftext|>': 199999, '<|endofprompt|>': 200018 } },
}

/**
 * Reads a rank file.
 * @param encoding  a name of `TIKTOKEN_ENCODINGS`, or pattern and special tokens
 * @throws TokenizerError if the file is damaged or the encoding is not known
 */
export function readTiktoken(path: string, encoding: string | TiktokenEncoding): Tokenizer {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new TokenizerError(`${path}: expected a tiktoken rank file, but it cannot be read`, { cause })
  }
  return fromTiktoken(text, encoding, path)
}

/**
 * A tokenizer from the text of a rank file.
 * @param source  what messages call the text
 * @throws TokenizerError as `readTiktoken`
 */
export function fromTiktoken(text: string, encoding: string | TiktokenEncoding, source = 'tiktoken'): Tokenizer {
  const { pattern, specialTokens } = typeof encoding === 'string' ? namedEncoding(encoding) : encoding
  const vocabulary = parseRanks(text, source)
  const addedTokens = Object.entries(specialTokens).map(([content, id]): AddedToken => ({ id, content, special: true }))
  const taken = addedTokens.find(({ id }) => vocabulary[id] !== undefined)
  if (taken !== undefined) {
    throw new TokenizerError(`${source}: rank ${taken.id} belongs to a token, so ${taken.content} cannot have it`)
  }
  return tokenizerOfFile(source, {
    kind: 'bytes',
    vocabulary,
    merges: mergesOfRanks(vocabulary),
    pattern,
    ignoreMerges: true,
    normalization: '',
    addedTokens,
    eosTokenId: specialTokens['<|endoftext|>'],
    addsBos: false,
  })
}

function namedEncoding(name: string): TiktokenEncoding {
  if (Object.hasOwn(TIKTOKEN_ENCODINGS, name)) return TIKTOKEN_ENCODINGS[name]!
  const known = Object.keys(TIKTOKEN_ENCODINGS).join(', ')
  throw new TokenizerError(`tiktoken: no encoding is called ${name}; known are ${known}`)
}

function parseRanks(text: string, source: string): (Uint8Array | undefined)[] {
  const vocabulary: (Uint8Array | undefined)[] = []
  const seen = new Set<string>()
  text.split('\n').forEach((line, i) => {
    if (line.trim() === '') return
    const [, base64, digits] = /^([A-Za-z0-9+/]+={0,2}) (\d{1,7})\r?$/.exec(line) ?? []
    const bytes = Buffer.from(base64 ?? '', 'base64')
    const rank = Number(digits)
    const key = latin1(bytes)
    const isGood = bytes.length > 0 && rank < MAX_VOCAB_SIZE && vocabulary[rank] === undefined && !seen.has(key)
    if (!isGood) {
      throw new TokenizerError(
        `${source}: line ${i + 1} must be a token in base64 and its rank, neither seen before, got ${JSON.stringify(line.slice(0, 60))}`,
      )
    }
    while (vocabulary.length <= rank) vocabulary.push(undefined)
    vocabulary[rank] = new Uint8Array(bytes)
    seen.add(key)
  })
  return vocabulary
}

/** Every way to make a token of two others, by the rank of the token: tiktoken joins whatever makes the lowest. */
function mergesOfRanks(vocabulary: readonly (Uint8Array | undefined)[]): Merge[] {
  const keys = vocabulary.map((bytes) => bytes && latin1(bytes))
  const idOf = new Map<string, number>()
  keys.forEach((key, id) => {
    if (key !== undefined) idOf.set(key, id)
  })
  // Only where both parts have the length of some token: a long token of a damaged file has a great many other cuts.
  const lengths = new Set(keys.map((key) => key?.length))
  const merges: Merge[] = []
  keys.forEach((key, id) => {
    if (key === undefined) return
    const cuts: Merge[] = []
    for (let at = 1; at < key.length; at++) {
      if (!lengths.has(at) || !lengths.has(key.length - at)) continue
      const left = idOf.get(key.slice(0, at))
      const right = left === undefined ? undefined : idOf.get(key.slice(at))
      if (left !== undefined && right !== undefined) cuts.push([left, right, id])
    }
    // The order that transformers' converter gives them.
    merges.push(...cuts.sort((a, b) => a[0] - b[0] || a[1] - b[1]))
  })
  return merges
}

/**
 * The text of a rank file.
 * @throws TokenizerError where tiktoken would give other ids: a normalization, byte fallback, ids that are not in order
 *   of rank, tokens that their own bytes do not lead to
 */
export function writeTiktoken(tokenizer: Tokenizer): string {
  const { kind, vocabulary, merges, ignoreMerges, normalization } = tokenizer.definition
  const refuse = (why: string): never => {
    throw new TokenizerError(`tiktoken: this tokenizer cannot be a rank file, since ${why}; save it as tokenizer.json`)
  }
  if (kind !== 'bytes') refuse('its symbols are characters')
  if (normalization !== '') refuse(`it normalizes text to ${normalization}`)
  if (merges.some(([, , id], i) => i > 0 && id < merges[i - 1]![2]))
    refuse('its ids are not in the order of its merges')
  if (!(ignoreMerges && isSameMerges(merges, mergesOfRanks(vocabulary)))) {
    if (merges.some(([left, right, id]) => id <= Math.max(left, right))) {
      refuse('some token is made of tokens with higher ids')
    }
    const strange = firstUnreachable(vocabulary, merges)
    if (strange !== undefined) refuse(`the bytes of token ${strange} are split otherwise by its merges`)
  }
  return vocabulary
    .map((bytes, id) => (bytes === undefined ? '' : `${Buffer.from(bytes).toString('base64')} ${id}\n`))
    .join('')
}

function isSameMerges(a: readonly Merge[], b: readonly Merge[]): boolean {
  const keys = new Set(a.map((merge) => merge.join(' ')))
  return keys.size === b.length && b.every((merge) => keys.has(merge.join(' ')))
}

/**
 * The first token whose own bytes are not merged into it. Where there is none, joining by the rank of the result and
 * joining by a list of merges are the same: whatever splits a token's bytes would split them alone as well.
 */
function firstUnreachable(
  vocabulary: readonly (Uint8Array | undefined)[],
  merges: readonly Merge[],
): number | undefined {
  const table = new MergeTable(merges)
  const byteIds = new Int32Array(256)
  vocabulary.forEach((bytes, id) => {
    if (bytes?.length === 1) byteIds[bytes[0]!] = id
  })
  const index = vocabulary.findIndex((bytes, id) => {
    if (bytes === undefined) return false
    const symbols = Int32Array.from(bytes, (byte) => byteIds[byte]!)
    return mergeAll(symbols, symbols.length, table) !== 1 || symbols[0] !== id
  })
  return index < 0 ? undefined : index
}
