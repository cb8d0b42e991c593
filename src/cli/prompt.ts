// Reads a line from the user with editing and history. Ctrl-C clears what was typed; on an empty line it ends, as Ctrl-D does.
import { createInterface, type Interface } from 'node:readline'

export interface Prompter {
  ask(question: string): Promise<string | undefined>
  close(): void
}

/** A prompter on standard input, which is opened at the first question. */
export function openPrompter(): Prompter {
  let reader: Interface | undefined
  let answer: ((line: string | undefined) => void) | undefined
  const finish = (line: string | undefined): void => {
    const waiting = answer
    answer = undefined
    // Paused, so that Ctrl-C outside a question is a signal again and the program can end.
    reader?.pause()
    if (process.stdin.isTTY) process.stdin.setRawMode(false)
    waiting?.(line)
  }
  const open = (): Interface => {
    const fresh = createInterface({ input: process.stdin, output: process.stdout, historySize: 200 })
    fresh.on('line', finish)
    fresh.on('SIGINT', () => {
      if (fresh.line === '') {
        process.stdout.write('\n')
        finish(undefined)
      } else fresh.write(null, { ctrl: true, name: 'u' })
    })
    fresh.on('close', () => {
      if (answer !== undefined) process.stdout.write('\n')
      reader = undefined
      finish(undefined)
    })
    return fresh
  }
  return {
    ask(question) {
      reader ??= open()
      const asked = reader
      return new Promise((resolve) => {
        answer = resolve
        if (process.stdin.isTTY) process.stdin.setRawMode(true)
        asked.setPrompt(question)
        asked.prompt()
      })
    },
    close: () => reader?.close(),
  }
}
