// What counts as a right answer to a damaged input: it is read, or refused by one clear sentence of a TrainyardError
// that names the file or the key.
import { TrainyardError } from '../../src/core/errors.ts'
import type { FuzzTarget } from './target.ts'

/** Longest message that is still a sentence. */
const MAX_MESSAGE = 850
/** Things that only a programmer reads. */
const UNCLEAR = /\[object |\bundefined\b|internal error|Cannot read prop|is not a function|call stack|Invalid array/

/** What is wrong with an error as an answer; undefined if nothing is. @param folder  of the input */
export function faultOf(error: unknown, target: FuzzTarget, folder: string): string | undefined {
  if (!(error instanceof TrainyardError)) {
    return `not a TrainyardError: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`
  }
  const lines = target.isMultiline === true ? error.message.split('\n') : [error.message]
  for (const line of lines) {
    const fault = faultOfSentence(line, target.knownWording)
    if (fault !== undefined) return `${fault}: ${JSON.stringify(error.message.slice(0, 1000))}`
  }
  if (!error.message.includes(folder) && target.names?.test(error.message) !== true) {
    return `names neither the file nor the key: ${JSON.stringify(error.message)}`
  }
  return undefined
}

/** What is wrong with a message as a sentence for a user. */
export function faultOfSentence(message: string, known?: RegExp): string | undefined {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f-\u009f]/.test(message)) return 'a control character or a line break in the message'
  if (!message.isWellFormed()) return 'half a surrogate pair in the message'
  if (message.length > MAX_MESSAGE) return `a message of ${message.length} characters`
  if (message.length < 15) return 'hardly a sentence'
  if (UNCLEAR.test(known === undefined ? message : message.replace(known, ''))) return 'an unclear message'
  return undefined
}
