// Files of the system that may or may not be there: /proc, /sys.
import { readFileSync } from 'node:fs'

/** undefined where it cannot be read. */
export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}
