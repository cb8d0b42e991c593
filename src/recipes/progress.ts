// One line about work whose end is not known in advance: redrawn in a terminal, now and then a line in a log.
import type { LiveHandle, RunContext } from '../config/context.ts'

const TURN_EVERY_MS = 100

/** Progress of a stretch of work. Opens its line with the first `show`, so that quick work stays silent. */
export class ProgressLine {
  readonly #context: RunContext
  readonly #title: string
  readonly #started = performance.now()
  #text = ''
  #turned = performance.now()
  #live: LiveHandle | undefined

  constructor(context: RunContext, title: string) {
    this.#context = context
    this.#title = title
  }

  /** Shows `describe()` when it is time to; signals are seen here. */
  async show(describe: () => string): Promise<void> {
    const now = performance.now()
    if (now - this.#turned < TURN_EVERY_MS) return
    this.#turned = now
    this.#text = `${this.#title}: ${describe()}, ${((now - this.#started) / 1000).toFixed(0)} s`
    this.#live ??= this.#context.live({ frame: () => [this.#text], line: () => this.#text })
    this.#live.update()
    await this.#context.turn()
  }

  stop(): void {
    this.#live?.stop()
  }
}
