// Decoding token by token without ever splitting a UTF-8 character: bytes of an unfinished one wait for the next token.
import type { Tokenizer } from './tokenizer.ts'

export class StreamDecoder {
  readonly #tokenizer: Tokenizer
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  readonly #skipSpecialTokens: boolean
  #isFirst: boolean

  /** @param options.isContinuation  the text goes on from a prompt, so a leading space belongs to it */
  constructor(tokenizer: Tokenizer, options: { skipSpecialTokens?: boolean; isContinuation?: boolean } = {}) {
    this.#tokenizer = tokenizer
    this.#skipSpecialTokens = options.skipSpecialTokens ?? true
    this.#isFirst = !(options.isContinuation ?? false) && tokenizer.definition.kind === 'byteFallback'
  }

  /** Whole characters that this id completes; '' while one is unfinished. */
  push(id: number): string {
    return this.#strip(this.#decoder.decode(this.#tokenizer.idToBytes(id, this.#skipSpecialTokens), { stream: true }))
  }

  /** What is left at the end: an unfinished character becomes U+FFFD. */
  flush(): string {
    return this.#strip(this.#decoder.decode())
  }

  #strip(text: string): string {
    if (!this.#isFirst || text === '') return text
    this.#isFirst = false
    return text.startsWith(' ') ? text.slice(1) : text
  }
}
