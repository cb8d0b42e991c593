// The tokenizer: byte-level BPE (GPT-2, Llama 3, Qwen, tiktoken) and the byte-fallback BPE of Llama 2. Text is cut at
// added tokens, then into pieces by a pattern, and each piece is merged; a bounded cache remembers common pieces.
// Reading and writing files is hf-json.ts's and tiktoken.ts's.
import { createHash } from 'node:crypto'
import { MergeTable, mergeAll } from './merge.ts'
import { compilePattern } from './pretokenize.ts'

/** A token that is matched in the text before any splitting, with Hugging Face's flags. */
export interface AddedToken {
  readonly id: number
  readonly content: string
  /** Special tokens can be skipped when decoding. */
  readonly special: boolean
  readonly lstrip?: boolean
  readonly rstrip?: boolean
}

/** Everything that decides the ids of a text. */
export interface TokenizerDefinition {
  /** 'bytes': symbols are bytes. 'byteFallback': symbols are characters, bytes <0xNN> where a character has no token. */
  readonly kind: 'bytes' | 'byteFallback'
  /** Bytes of each id; undefined for ids that no piece makes (added tokens, gaps). */
  readonly vocabulary: readonly (Uint8Array | undefined)[]
  /** Pairs of ids in order of rank, and the id each makes. */
  readonly merges: readonly (readonly [left: number, right: number, id: number])[]
  /** Splitting pattern; '' for none. */
  readonly pattern: string
  /** A piece that is a token as a whole is taken as it is, whatever the merges say (Llama 3, tiktoken). */
  readonly ignoreMerges: boolean
  /** Unicode normalization applied first. */
  readonly normalization: '' | 'NFC'
  readonly addedTokens: readonly AddedToken[]
  readonly bosTokenId?: number | undefined
  readonly eosTokenId?: number | undefined
  /** Whether `addSpecialTokens` puts the BOS token in front. */
  readonly addsBos: boolean
}

const CACHE_BYTES = 32 << 20
/** A piece longer than this is not remembered. */
const LONGEST_CACHED = 64
const encoder = new TextEncoder()

export class Tokenizer {
  readonly definition: TokenizerDefinition
  readonly vocabSize: number
  /** sha-256 of the definition: equal hashes mean equal ids for every text. */
  readonly hash: string
  readonly bosTokenId: number | undefined
  readonly eosTokenId: number | undefined
  readonly #table = new MergeTable()
  readonly #pattern: RegExp | undefined
  readonly #whole = new Map<string, number>()
  readonly #byteIds = new Int32Array(256).fill(-1)
  readonly #added = new Map<string, AddedToken>()
  readonly #addedById = new Map<number, AddedToken>()
  readonly #addedPattern: RegExp | undefined
  readonly #cache = new Map<string, number[]>()
  #cacheBytes = 0

  constructor(definition: TokenizerDefinition) {
    this.definition = definition
    const { vocabulary, merges, addedTokens, pattern, kind } = definition
    this.vocabSize = Math.max(vocabulary.length, ...addedTokens.map((token) => token.id + 1))
    this.bosTokenId = definition.bosTokenId
    this.eosTokenId = definition.eosTokenId
    merges.forEach(([left, right, id], rank) => {
      this.#table.add(left, right, rank, id)
    })
    this.#pattern = pattern === '' ? undefined : compilePattern(pattern)
    for (const token of addedTokens) {
      this.#added.set(token.content, token)
      this.#addedById.set(token.id, token)
    }
    vocabulary.forEach((bytes, id) => {
      if (bytes === undefined || this.#addedById.has(id)) return
      if (kind === 'bytes') {
        if (bytes.length === 1) this.#byteIds[bytes[0]!] = id
        this.#whole.set(latin1(bytes), id)
      } else {
        const text = new TextDecoder().decode(bytes)
        const byte = /^<0x([0-9A-F]{2})>$/.exec(text)?.[1]
        if (byte !== undefined) this.#byteIds[Number.parseInt(byte, 16)] = id
        else this.#whole.set(text, id)
      }
    })
    if (addedTokens.length > 0) {
      const longestFirst = addedTokens.map((token) => token.content).sort((a, b) => b.length - a.length)
      this.#addedPattern = new RegExp(longestFirst.map(escapeRegExp).join('|'), 'gu')
    }
    this.hash = hashOf(definition)
  }

  /**
   * Token ids of a text.
   * @param options.addSpecialTokens  put BOS in front where the family does (default false)
   * @param options.parseSpecial      recognise special tokens written in the text (default true); false treats them as
   *                                  plain text, as untrusted input should be
   */
  encode(text: string, options: { addSpecialTokens?: boolean; parseSpecial?: boolean } = {}): number[] {
    const ids: number[] = []
    const { addsBos } = this.definition
    if (options.addSpecialTokens && addsBos && this.bosTokenId !== undefined) ids.push(this.bosTokenId)
    if (this.#addedPattern === undefined || options.parseSpecial === false) {
      this.#encodeText(text, ids, true)
      return ids
    }
    let from = 0
    for (const match of text.matchAll(this.#addedPattern)) {
      const token = this.#added.get(match[0])!
      let before = text.slice(from, match.index)
      if (token.lstrip) before = before.trimEnd()
      if (before !== '') this.#encodeText(before, ids, from === 0)
      ids.push(token.id)
      from = match.index + match[0].length
      if (token.rstrip) from += /^\s*/.exec(text.slice(from))![0].length
    }
    if (from < text.length) this.#encodeText(from === 0 ? text : text.slice(from), ids, from === 0)
    return ids
  }

  /** Bytes that ids stand for. */
  decodeBytes(ids: ArrayLike<number>, options: { skipSpecialTokens?: boolean } = {}): Uint8Array {
    const parts: Uint8Array[] = []
    let length = 0
    for (let i = 0; i < ids.length; i++) {
      const bytes = this.idToBytes(ids[i]!, options.skipSpecialTokens ?? false)
      parts.push(bytes)
      length += bytes.length
    }
    const out = new Uint8Array(length)
    let offset = 0
    for (const part of parts) {
      out.set(part, offset)
      offset += part.length
    }
    return out
  }

  /** Text of ids; bytes that are no UTF-8 become U+FFFD. */
  decode(ids: ArrayLike<number>, options: { skipSpecialTokens?: boolean } = {}): string {
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.decodeBytes(ids, options))
    // Llama 2's pieces begin with the space of a word; the first one's is not part of the text.
    return this.definition.kind === 'byteFallback' && text.startsWith(' ') ? text.slice(1) : text
  }

  /** Bytes of one id; empty for unknown ids, and for special tokens where those are skipped. */
  idToBytes(id: number, skipSpecialTokens = false): Uint8Array {
    const added = this.#addedById.get(id)
    if (added !== undefined) return skipSpecialTokens && added.special ? new Uint8Array() : encoder.encode(added.content)
    const bytes = this.definition.vocabulary[id] ?? new Uint8Array()
    if (this.definition.kind === 'bytes') return bytes
    const text = new TextDecoder().decode(bytes)
    const byte = /^<0x([0-9A-F]{2})>$/.exec(text)?.[1]
    return byte === undefined
      ? encoder.encode(text.replaceAll('\u2581', ' '))
      : Uint8Array.of(Number.parseInt(byte, 16))
  }

  /** Id of a token by its exact text, or undefined. */
  tokenToId(text: string): number | undefined {
    const added = this.#added.get(text)
    if (added !== undefined) return added.id
    return this.#whole.get(this.definition.kind === 'bytes' ? latin1(encoder.encode(text)) : text)
  }

  #encodeText(text: string, ids: number[], isStart: boolean): void {
    const { normalization, kind } = this.definition
    const normal = normalization === '' ? text : text.normalize(normalization)
    if (kind === 'byteFallback') {
      this.#encodeFallback((isStart ? ' ' : '') + normal, ids)
      return
    }
    if (this.#pattern === undefined) {
      this.#encodePiece(normal, ids)
      return
    }
    // The patterns match every character; what falls between matches (lone surrogates aside) would be lost.
    this.#pattern.lastIndex = 0
    for (let match = this.#pattern.exec(normal); match !== null; match = this.#pattern.exec(normal)) {
      this.#encodePiece(match[0], ids)
    }
  }

  #encodePiece(piece: string, ids: number[]): void {
    const cached = this.#cache.get(piece)
    if (cached !== undefined) {
      for (const id of cached) ids.push(id)
      return
    }
    const bytes = encoder.encode(piece)
    const whole = this.definition.ignoreMerges ? this.#whole.get(latin1(bytes)) : undefined
    const result = whole !== undefined ? [whole] : mergeAll(Array.from(bytes, (b) => this.#byteIds[b]!), this.#table)
    for (const id of result) ids.push(id)
    this.#remember(piece, result)
  }

  /** Llama 2's way: characters, bytes where a character has no token, then merges over the whole text. */
  #encodeFallback(text: string, ids: number[]): void {
    const symbols: number[] = []
    for (const character of text.replaceAll(' ', '\u2581')) {
      const id = this.#whole.get(character)
      if (id !== undefined) symbols.push(id)
      else for (const byte of encoder.encode(character)) symbols.push(this.#byteIds[byte]!)
    }
    for (const id of mergeAll(symbols, this.#table)) ids.push(id)
  }

  #remember(piece: string, ids: number[]): void {
    if (piece.length > LONGEST_CACHED) return
    // A Map entry, the string and the array: measured at about 100 bytes and 10 more for each character and id.
    this.#cacheBytes += 100 + 10 * (piece.length + ids.length)
    if (this.#cacheBytes > CACHE_BYTES) {
      this.#cache.clear()
      this.#cacheBytes = 0
    }
    this.#cache.set(piece, ids)
  }
}

/** Bytes as a string of the same length, to serve as a Map key. */
export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

function escapeRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\/-]/g, '\\$&').replace(/\\-/g, '\\x2d').replace(/\\\//g, '\\x2f')
}

function hashOf(definition: TokenizerDefinition): string {
  const hash = createHash('sha256')
  const { vocabulary, merges, ...rest } = definition
  hash.update(JSON.stringify(rest))
  for (const bytes of vocabulary) hash.update(`${bytes === undefined ? '-' : latin1(bytes)}\n`)
  for (const merge of merges) hash.update(`${merge.join(' ')}\n`)
  return hash.digest('hex')
}
