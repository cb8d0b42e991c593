// The RunContext of the command line: standard streams, the environment, Ctrl-C. The one place besides main.ts and
// working-folder.ts that touches `process`.
import { fileURLToPath } from 'node:url'
import type { InterruptScope, LiveView, RecipeCatalog, RunContext } from '../config/context.ts'
import { type Display, liveOnPipe, liveOnTerminal } from './live.ts'
import { openPrompter } from './prompt.ts'
import { workingFolder } from './working-folder.ts'

const COLUMNS_WITHOUT_TERMINAL = 100
/** 128 + SIGINT, what shells expect of an interrupted program. */
const EXIT_INTERRUPTED = 130

/** Opens the context. close() gives the terminal back; call it whatever happened. */
export function openContext(recipes: RecipeCatalog): { context: RunContext; close(): void } {
  const { stdout, stderr, stdin, env } = process
  const canRedraw = stdout.isTTY === true && env.TERM !== 'dumb' && env.TERM !== 'linux'
  const hasColor = stdout.isTTY === true && env.TERM !== 'dumb' && !env.NO_COLOR
  const run = new AbortController()
  const prompter = openPrompter()
  const scopes: AbortController[] = []
  const notices: { text: string }[] = [{ text: 'stopping' }]
  let display: Display | undefined

  const print = (write: () => void): void => {
    if (display === undefined) write()
    else display.printAbove(write)
  }
  const onSignal = (): void => {
    const scope = scopes.at(-1)
    if (scope !== undefined && !scope.signal.aborted) {
      scope.abort()
    } else if (run.signal.aborted) {
      close()
      process.exit(EXIT_INTERRUPTED)
    } else {
      print(() => stderr.write(`\n${notices.at(-1)!.text}; Ctrl-C again to stop at once\n`))
      run.abort()
      // Whoever waits for the user waits no longer.
      prompter.close()
    }
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)

  const close = (): void => {
    process.off('SIGINT', onSignal)
    process.off('SIGTERM', onSignal)
    display?.stop()
    display = undefined
    prompter.close()
  }

  const context: RunContext = {
    cwd: workingFolder(),
    env,
    recipes,
    program: [process.execPath, fileURLToPath(new URL('../../tools/trainyard.mjs', import.meta.url))],
    isTerminal: canRedraw,
    hasColor,
    canPrompt: stdin.isTTY === true && stdout.isTTY === true,
    get columns() {
      // A pseudo-terminal that nobody gave a size says 0.
      return stdout.columns || COLUMNS_WITHOUT_TERMINAL
    },
    log: (line) => print(() => stdout.write(`${line}\n`)),
    write: (text) => print(() => stdout.write(text)),
    warn: (line) => print(() => stderr.write(`${line}\n`)),
    live(view: LiveView) {
      display?.stop()
      const opened = canRedraw ? liveOnTerminal(view, stdout) : liveOnPipe(view, (text) => stdout.write(text))
      display = opened
      return {
        update: () => opened.update(),
        stop() {
          opened.stop()
          if (display === opened) display = undefined
        },
      }
    },
    async readInput() {
      const chunks: Buffer[] = []
      for await (const chunk of stdin) chunks.push(Buffer.from(chunk as Uint8Array))
      return Buffer.concat(chunks)
    },
    prompt: (question) =>
      context.canPrompt && !run.signal.aborted ? prompter.ask(question) : Promise.resolve(undefined),
    signal: run.signal,
    turn: () => new Promise((resolve) => setImmediate(resolve)),
    interruptScope(): InterruptScope {
      const scope = new AbortController()
      scopes.push(scope)
      return {
        signal: scope.signal,
        [Symbol.dispose]() {
          scopes.splice(scopes.indexOf(scope), 1)
        },
      }
    },
    interruptNotice(text: string): Disposable {
      const notice = { text }
      notices.push(notice)
      return {
        [Symbol.dispose]() {
          notices.splice(notices.indexOf(notice), 1)
        },
      }
    },
  }
  return { context, close }
}
