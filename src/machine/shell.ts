// Asks a program of this machine something and gives its answer, or nothing. For questions only: short, no input.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const PATIENCE_MS = 5000

/** Standard output of `command`, trimmed; undefined when it is not there, fails or takes longer than 5 s. */
export async function ask(command: string, args: readonly string[]): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)(command, [...args], { timeout: PATIENCE_MS, maxBuffer: 1 << 22 })
    return stdout.trim()
  } catch {
    return undefined
  }
}
