// Durable file operations: writing beside and renaming, syncing files and folders, reading exact byte ranges,
// parsing JSON files. Every failure becomes a CheckpointError that names the file.
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { CheckpointError } from '../core/errors.ts'
import { parseJson, shown } from '../core/json.ts'

/** A name for temporary things beside `path`: hidden, and never used twice. */
export function temporarySibling(path: string, kind = 'tmp'): string {
  return join(dirname(path), `.${basename(path)}.${kind}-${randomBytes(6).toString('hex')}`)
}

/** Makes the entries of a folder (new names, renames) survive a power cut. */
export function syncFolder(folder: string): void {
  const fd = openSync(folder, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/**
 * Writes a file so that, after any crash, `path` holds either its old contents or all of the new ones:
 * `write` fills a temporary sibling, which is synced and renamed.
 */
export async function writeFileAtomic(path: string, write: (fd: number) => void | Promise<void>): Promise<void> {
  mkdirSync(dirname(path), { recursive: true })
  const temporary = temporarySibling(path)
  const fd = openSync(temporary, 'wx')
  let isOpen = true
  try {
    await write(fd)
    fsyncSync(fd)
    closeSync(fd)
    isOpen = false
    renameSync(temporary, path)
    syncFolder(dirname(path))
  } catch (error) {
    if (isOpen) closeSync(fd)
    rmSync(temporary, { force: true })
    throw error
  }
}

/** Writes all of `bytes` at the current end of `fd`. */
export function writeAll(fd: number, bytes: Uint8Array): void {
  let written = 0
  while (written < bytes.length) written += writeSync(fd, bytes, written, bytes.length - written)
}

/** Writes text or bytes atomically. */
export async function writeContents(path: string, contents: string | Uint8Array): Promise<void> {
  const bytes = typeof contents === 'string' ? new TextEncoder().encode(contents) : contents
  await writeFileAtomic(path, (fd) => writeAll(fd, bytes))
}

/** JSON indented by two, with a final newline. */
export function jsonText(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}

/** Writes a JSON file atomically, indented by two, with a final newline. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeContents(path, jsonText(value))
}

/** Fills `bytes` from `position` of an open file. @throws CheckpointError if the file ends before */
export function readExactly(fd: number, bytes: Uint8Array, position: number, path: string): void {
  let done = 0
  while (done < bytes.length) {
    const count = readSync(fd, bytes, done, bytes.length - done, position + done)
    if (count === 0) {
      throw new CheckpointError(
        `${path}: expected ${bytes.length} bytes at offset ${position}, but the file ends after ${done} of them; it was cut off while open, copy it again`,
      )
    }
    done += count
  }
}

export type JsonObject = Record<string, unknown>

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Reads a JSON file that must hold an object. @throws CheckpointError naming the file */
export function readJsonObject(path: string): JsonObject {
  let value: unknown
  try {
    value = parseJson(readFileSync(path, 'utf8'))
  } catch (cause) {
    const isAbsent = (cause as NodeJS.ErrnoException).code === 'ENOENT'
    const what = isAbsent ? 'there is no such file' : `it is not readable JSON (${(cause as Error).message})`
    throw new CheckpointError(`${path}: expected a JSON object, but ${what}`, { cause })
  }
  if (!isJsonObject(value)) {
    throw new CheckpointError(
      `${path}: expected a JSON object, got ${Array.isArray(value) ? 'an array' : shown(value)}`,
    )
  }
  return value
}

/** A few names for a message: the first three and how many more. */
export function someNames(names: readonly string[]): string {
  const rest = names.length - 3
  return names.slice(0, 3).join(', ') + (rest > 0 ? ` and ${rest} more` : '')
}
