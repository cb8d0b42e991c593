// What a recipe is given besides its configuration: the only way out to a terminal, an environment, a signal. Recipes
// never touch process or console, so that a test, a server or another program can run them. Implemented in cli/context.ts.
import type { Recipe } from './recipe.ts'

/** Something that a terminal shows in place while it changes, and a pipe or log file gets as a line now and then. */
export interface LiveView {
  /** Lines for a terminal. Longer lines and more lines than fit are cut. */
  frame(size: { columns: number; rows: number }): string[]
  /** The same in one line, without control characters. */
  line(): string
}

export interface LiveHandle {
  /** Says that the view has changed; call it as often as you like, drawing is rate-limited. */
  update(): void
  /** Draws the last state and leaves it standing. */
  stop(): void
}

/** A stretch of work that Ctrl-C ends without ending the run: a reply that is being written in a chat. */
export interface InterruptScope extends Disposable {
  readonly signal: AbortSignal
}

/** The recipes of this program, by the words that call them. */
export interface RecipeCatalog {
  readonly names: readonly string[]
  /** undefined when there is none of that name. */
  load(name: string): Promise<Recipe | undefined>
}

export interface RunContext {
  /** Where relative paths of the user start. */
  readonly cwd: string
  readonly env: Readonly<Record<string, string | undefined>>
  readonly recipes: RecipeCatalog
  /** The command that starts this program: executable, then arguments that come before the verb. */
  readonly program: readonly [string, ...string[]]

  /** Output goes to a terminal that can redraw. */
  readonly isTerminal: boolean
  /** Colours are welcome. */
  readonly hasColor: boolean
  /** Somebody is there to answer `prompt`. */
  readonly canPrompt: boolean
  /** Width of the terminal now; 100 when there is none. */
  readonly columns: number

  /** Prints a line of result (standard output). */
  log(line: string): void
  /** Prints text as it is, such as a piece of a sample; the recipe ends its lines. */
  write(text: string | Uint8Array): void
  /** Prints a line that is no result (standard error). */
  warn(line: string): void
  /** Shows `view` until stopped; log() and warn() print above it. */
  live(view: LiveView): LiveHandle
  /** A line typed by the user; undefined at its end (Ctrl-D, Ctrl-C on an empty line, `signal`) or when nobody is there. */
  prompt(question: string): Promise<string | undefined>
  /** All of standard input, to its end. */
  readInput(): Promise<Uint8Array>

  /**
   * Aborted by the first Ctrl-C or a SIGTERM: finish the step, save, return. The second Ctrl-C ends the program.
   * A loop of synchronous work must `await context.turn()` once per step, or no signal is ever seen.
   */
  readonly signal: AbortSignal
  /** Lets signals, input and drawing have their turn. */
  turn(): Promise<void>
  /** While the scope lives, Ctrl-C aborts the scope and not the run. */
  interruptScope(): InterruptScope
  /**
   * What the first Ctrl-C says while this lives: what will end, and when ('stopping after this step'); 'stopping' where
   * nothing was said.
   */
  interruptNotice(text: string): Disposable
}
