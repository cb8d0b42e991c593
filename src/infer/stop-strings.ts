// Stop strings over a stream of text: what may be the beginning of one is held back until it is known not to be.

export class StopStrings {
  readonly #stops: readonly string[]
  #held = ''
  /** Set once a stop string has been seen; the text before it has been given out. */
  isStopped = false

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '')
  }

  /** Text that may be shown now. */
  push(text: string): string {
    if (this.#stops.length === 0) return text
    this.#held += text
    const found = this.#stops.map((stop) => this.#held.indexOf(stop)).filter((at) => at >= 0)
    if (found.length > 0) {
      this.isStopped = true
      const shown = this.#held.slice(0, Math.min(...found))
      this.#held = ''
      return shown
    }
    const keep = Math.max(...this.#stops.map((stop) => longestOverlap(this.#held, stop)))
    const shown = this.#held.slice(0, this.#held.length - keep)
    this.#held = this.#held.slice(this.#held.length - keep)
    return shown
  }

  /** What was held back, at the end of the stream. */
  flush(): string {
    const shown = this.#held
    this.#held = ''
    return shown
  }
}

/** Length of the longest end of `text` that begins `stop`. */
function longestOverlap(text: string, stop: string): number {
  for (let n = Math.min(text.length, stop.length - 1); n > 0; n--) if (text.endsWith(stop.slice(0, n))) return n
  return 0
}
