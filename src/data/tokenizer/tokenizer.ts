// The tokenizer: byte-level BPE (GPT-2, Llama 3, Qwen, tiktoken) and the byte-fallback BPE of Llama 2. Text is cut at
// added tokens, then into pieces by a pattern, and each piece is merged; a bounded cache remembers common pieces.
// Reading and writing files is hf-json.ts's and tiktoken.ts's.
import { TokenizerError } from '../../core/errors.ts'
import { type AddedToken, AddedTokenFinder } from './added-tokens.ts'
import {
  checkDefinition,
  decodingTable,
  exactText,
  hashOf,
  SPACE,
  type TokenizerDefinition,
  textOf,
  withoutAdded,
} from './definition.ts'
import { MergeTable, mergeAll } from './merge.ts'
import { LONGEST_PIECE, PieceCache } from './piece-cache.ts'
import { scannerOf } from './pretokenize.ts'
import type { PieceScanner } from './scanners.ts'

const encoder = new TextEncoder()

export class Tokenizer {
  readonly definition: TokenizerDefinition
  /** Every id is below it. */
  readonly vocabSize: number
  readonly bosTokenId: number | undefined
  readonly eosTokenId: number | undefined
  readonly #table: MergeTable
  readonly #scan: PieceScanner
  readonly #byteIds: Int32Array
  /** What each id decodes to; undefined for gaps. */
  readonly #bytes: (Uint8Array | undefined)[]
  readonly #added: ReadonlyMap<string, AddedToken>
  readonly #isSpecial: Uint8Array
  readonly #finders: readonly Finders[]
  #byText: Map<string, number> | undefined
  #hash: string | undefined
  #cache: PieceCache | undefined
  #symbols = new Int32Array(4 * LONGEST_PIECE)

  /** @throws TokenizerError if the definition contradicts itself */
  constructor(definition: TokenizerDefinition) {
    checkDefinition(definition)
    const { addedTokens, kind, vocabulary } = definition
    let vocabSize = vocabulary.length
    for (const { id } of addedTokens) vocabSize = Math.max(vocabSize, id + 1)
    this.definition = { ...definition, vocabulary: withoutAdded(definition) }
    this.vocabSize = vocabSize
    this.bosTokenId = definition.bosTokenId
    this.eosTokenId = definition.eosTokenId
    this.#table = new MergeTable(definition.merges)
    this.#scan = kind === 'bytes' ? scannerOf(definition.pattern) : fallbackScanner(definition)
    const { bytes, byteIds } = decodingTable(this.definition)
    this.#bytes = bytes
    this.#byteIds = byteIds
    this.#added = new Map(addedTokens.map((token) => [token.content, token]))
    this.#isSpecial = new Uint8Array(vocabSize)
    for (const token of addedTokens) {
      bytes[token.id] = encoder.encode(token.content)
      if (token.special) this.#isSpecial[token.id] = 1
    }
    this.#finders = [findersOf(addedTokens.filter((token) => !token.special)), findersOf(addedTokens)]
  }

  /** sha-256 of the definition: equal hashes mean equal ids for every text. */
  get hash(): string {
    this.#hash ??= hashOf(this.definition)
    return this.#hash
  }

  /** The chat template that came with the tokenizer, in Jinja. */
  get chatTemplate(): string | undefined {
    const template = this.definition.config?.chat_template
    return typeof template === 'string' ? template : undefined
  }

  /**
   * Token ids of a text. Lone surrogates count as U+FFFD.
   * @param options.addSpecialTokens  put BOS in front where the family does (default false)
   * @param options.parseSpecial      recognise special tokens written in the text (default true); false treats them as
   *                                  plain text, as untrusted input should be
   */
  encode(text: string, options: { addSpecialTokens?: boolean; parseSpecial?: boolean } = {}): number[] {
    const ids: number[] = []
    if (options.addSpecialTokens && this.definition.addsBos) ids.push(this.bosTokenId!)
    const finders = this.#finders[options.parseSpecial === false ? 0 : 1]!
    for (const part of finders.raw.split(text.toWellFormed())) {
      if (typeof part !== 'string') {
        ids.push(part.id)
        continue
      }
      for (const section of finders.normalized.split(this.#normalize(part))) {
        if (typeof section === 'string') this.#encodeSection(section, ids)
        else ids.push(section.id)
      }
    }
    return ids
  }

  /** Bytes that ids stand for; unknown ids stand for none. */
  decodeBytes(ids: ArrayLike<number>, options: { skipSpecialTokens?: boolean } = {}): Uint8Array {
    const skipsSpecial = options.skipSpecialTokens ?? false
    let length = 0
    for (let i = 0; i < ids.length; i++) length += this.idToBytes(ids[i]!, skipsSpecial).length
    const out = new Uint8Array(length)
    let offset = 0
    for (let i = 0; i < ids.length; i++) {
      const bytes = this.idToBytes(ids[i]!, skipsSpecial)
      for (let k = 0; k < bytes.length; k++) out[offset++] = bytes[k]!
    }
    return out
  }

  /** Text of ids; bytes that are no UTF-8 become U+FFFD. */
  decode(ids: ArrayLike<number>, options: { skipSpecialTokens?: boolean } = {}): string {
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.decodeBytes(ids, options))
    // Llama 2's pieces begin with the space of a word; the first one's is not part of the text.
    return this.definition.kind === 'byteFallback' && text.startsWith(' ') ? text.slice(1) : text
  }

  /** Bytes of one id, not to be changed; empty for unknown ids, and for special tokens where those are skipped. */
  idToBytes(id: number, skipSpecialTokens = false): Uint8Array {
    return (skipSpecialTokens && this.#isSpecial[id] === 1 ? undefined : this.#bytes[id]) ?? NOTHING
  }

  /** Id of a token by its exact text, or undefined. */
  tokenToId(text: string): number | undefined {
    return this.#added.get(text)?.id ?? this.#idsByText().get(text)
  }

  /** Whether an id is a special token. */
  isSpecial(id: number): boolean {
    return this.#isSpecial[id] === 1
  }

  #normalize(text: string): string {
    const { normalization, kind } = this.definition
    if (kind === 'byteFallback') return SPACE + text.replaceAll(' ', SPACE)
    return normalization === '' ? text : text.normalize(normalization)
  }

  #encodeSection(text: string, ids: number[]): void {
    this.#cache ??= new PieceCache()
    const cache = this.#cache
    const scan = this.#scan
    for (let start = 0; start < text.length; ) {
      const end = scan(text, start)
      const isShort = end - start <= LONGEST_PIECE
      if (!isShort || !cache.appendIds(text, start, end, ids)) {
        const count = this.#mergePiece(text.slice(start, end))
        const symbols = this.#symbols
        for (let i = 0; i < count; i++) ids.push(symbols[i]!)
        if (isShort) cache.add(text, start, end, symbols, count)
      }
      start = end
    }
  }

  /** Leaves the ids of a piece in `#symbols`. @returns how many */
  #mergePiece(piece: string): number {
    const { kind, ignoreMerges } = this.definition
    // A UTF-16 unit has at most three bytes.
    if (this.#symbols.length < 3 * piece.length) this.#symbols = new Int32Array(3 * piece.length)
    const symbols = this.#symbols
    if (ignoreMerges) {
      const whole = this.#idsByText().get(piece)
      if (whole !== undefined) {
        symbols[0] = whole
        return 1
      }
    }
    let count = 0
    if (kind === 'bytes') {
      for (const byte of encoder.encode(piece)) symbols[count++] = this.#byteIds[byte]!
    } else {
      for (const character of piece) {
        const id = this.#idsByText().get(character)
        if (id !== undefined) symbols[count++] = id
        else for (const byte of encoder.encode(character)) symbols[count++] = this.#byteIds[byte]!
      }
    }
    return mergeAll(symbols, count, this.#table)
  }

  /** Ids of the tokens that are whole characters, by their text as it is written in the vocabulary. */
  #idsByText(): Map<string, number> {
    if (this.#byText !== undefined) return this.#byText
    const byText = new Map<string, number>()
    this.definition.vocabulary.forEach((bytes, id) => {
      const text = bytes === undefined ? undefined : exactText(bytes)
      if (text !== undefined) byText.set(text, id)
    })
    this.#byText = byText
    return byText
  }
}

/**
 * The tokenizer of a definition that was read from `path`.
 * @throws TokenizerError naming the file if the definition contradicts itself
 */
export function tokenizerOfFile(path: string, definition: TokenizerDefinition): Tokenizer {
  try {
    return new Tokenizer(definition)
  } catch (error) {
    if (!(error instanceof TokenizerError)) throw error
    throw new TokenizerError(error.message.replace(/^tokenizer:/, `${path}:`), { cause: error })
  }
}

const NOTHING = new Uint8Array()

interface Finders {
  /** For the text as it came. */
  readonly raw: AddedTokenFinder
  /** For what is left of it, normalized. */
  readonly normalized: AddedTokenFinder
}

function findersOf(tokens: readonly AddedToken[]): Finders {
  return {
    raw: new AddedTokenFinder(tokens.filter((token) => !token.normalized)),
    normalized: new AddedTokenFinder(tokens.filter((token) => token.normalized)),
  }
}

/**
 * Llama 2 merges the whole text. Where no merge joins a word's end with the next word's space, which is so in every
 * published one, pieces of a word with its spaces give the same ids and can be remembered.
 */
function fallbackScanner({ merges, vocabulary }: TokenizerDefinition): PieceScanner {
  const text = (id: number): string => textOf(vocabulary[id] ?? NOTHING)
  const joinsWords = merges.some(([left, right]) => text(right).startsWith(SPACE) && !text(left).endsWith(SPACE))
  if (joinsWords) return (section) => section.length
  return (section, start) => {
    let end = start
    while (section[end] === SPACE) end++
    const next = section.indexOf(SPACE, end)
    return next < 0 ? section.length : next
  }
}
