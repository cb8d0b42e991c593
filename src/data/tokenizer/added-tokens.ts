// Finds added tokens in a text before anything else happens to it: leftmost first, longest there, with Hugging Face's
// flags. Knows nothing of merges.

/** A token that is matched in the text before any splitting, with Hugging Face's flags. */
export interface AddedToken {
  readonly id: number
  readonly content: string
  /** Special tokens can be skipped when decoding, and can be left unrecognised when encoding. */
  readonly special: boolean
  /** Takes the white space before it. */
  readonly lstrip?: boolean
  /** Takes the white space after it. */
  readonly rstrip?: boolean
  /** Not inside a word. */
  readonly singleWord?: boolean
  /** Looked for in the normalized text. */
  readonly normalized?: boolean
}

interface TrieNode {
  readonly next: Map<number, TrieNode>
  token: AddedToken | undefined
}

const WORD_BEFORE = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u
const WORD_AFTER = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u
const SPACE = /\p{White_Space}/u

export class AddedTokenFinder {
  readonly #root: TrieNode = { next: new Map(), token: undefined }
  /** 1 for the units that a token begins with: one look per unit of text. */
  readonly #isFirstUnit = new Uint8Array(0x10000)
  readonly #isEmpty: boolean

  constructor(tokens: Iterable<AddedToken>) {
    let count = 0
    for (const token of tokens) {
      let node = this.#root
      for (let i = 0; i < token.content.length; i++) {
        const unit = token.content.charCodeAt(i)
        let next = node.next.get(unit)
        if (next === undefined) {
          next = { next: new Map(), token: undefined }
          node.next.set(unit, next)
        }
        node = next
      }
      node.token = token
      this.#isFirstUnit[token.content.charCodeAt(0)] = 1
      count++
    }
    this.#isEmpty = count === 0
  }

  /** The text cut into tokens and what stands between them; no part is empty. */
  split(text: string): (string | AddedToken)[] {
    if (this.#isEmpty) return text === '' ? [] : [text]
    const parts: (string | AddedToken)[] = []
    let done = 0
    for (let at = 0; at < text.length; at++) {
      if (this.#isFirstUnit[text.charCodeAt(at)] === 0) continue
      const token = this.#longestAt(text, at)
      if (token === undefined) continue
      let end = at + token.content.length
      if (token.singleWord && isInsideWord(text, at, end)) {
        at = end - 1
        continue
      }
      let start = at
      if (token.lstrip) while (start > done && SPACE.test(text.charAt(start - 1))) start--
      if (token.rstrip) while (end < text.length && SPACE.test(text.charAt(end))) end++
      if (start > done) parts.push(text.slice(done, start))
      parts.push(token)
      done = end
      at = end - 1
    }
    if (done < text.length) parts.push(done === 0 ? text : text.slice(done))
    return parts
  }

  #longestAt(text: string, start: number): AddedToken | undefined {
    let node: TrieNode | undefined = this.#root
    let longest: AddedToken | undefined
    for (let i = start; i < text.length; i++) {
      node = node.next.get(text.charCodeAt(i))
      if (node === undefined) break
      longest = node.token ?? longest
    }
    return longest
  }
}

function isInsideWord(text: string, start: number, end: number): boolean {
  // Two units hold any one character.
  return WORD_BEFORE.test(text.slice(Math.max(0, start - 2), start)) || WORD_AFTER.test(text.slice(end, end + 2))
}
