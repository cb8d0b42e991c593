// Finds the input files under the paths a user names, in a fixed order, and opens them as byte streams, decompressed.
// What the bytes mean is the readers' affair.
import { createReadStream, readdirSync, realpathSync, type Stats, statSync } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { DataError } from '../core/errors.ts'
import type { ReadReport } from './document.ts'
import { cutAtFrameEnds } from './zstd-frames.ts'

export type FileFormat = 'text' | 'jsonl'

/** One input file. */
export interface SourceFile {
  /** Path to open; also the `source` of its documents. */
  readonly path: string
  readonly format: FileFormat
}

const FORMAT_BY_EXTENSION: Readonly<Record<string, FileFormat>> = {
  txt: 'text',
  text: 'text',
  md: 'text',
  jsonl: 'jsonl',
  ndjson: 'jsonl',
}

/** Format told by a name such as `a.jsonl.gz`, or undefined. */
function formatOfName(path: string): FileFormat | undefined {
  const name = path.replace(/\.(gz|zst)$/i, '')
  const extension = /\.([^./\\]+)$/.exec(name)?.[1]?.toLowerCase() ?? ''
  return FORMAT_BY_EXTENSION[extension]
}

/**
 * The files of `paths`: a file stands for itself (text unless its name says JSONL), a folder for all files below it
 * that are not hidden. In folders, with no `format` given, files of other extensions than txt, text, md, jsonl,
 * ndjson (each also .gz or .zst) are left out and counted as `unknown-extension`.
 * Each folder's files come in the order of their paths' UTF-16 code units: the same on every machine and locale.
 * @throws DataError if a path does not exist
 */
export function listSourceFiles(
  paths: readonly string[],
  format: FileFormat | undefined,
  report: ReadReport,
): SourceFile[] {
  const files: SourceFile[] = []
  for (const path of paths) {
    const stats = statOf(path)
    if (!stats.isDirectory()) {
      files.push({ path, format: format ?? formatOfName(path) ?? 'text' })
      continue
    }
    for (const found of walk(path, new Set()).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))) {
      const chosen = format ?? formatOfName(found)
      if (chosen === undefined) report.drop('unknown-extension', found, 1, 'not a text or JSONL file name')
      else files.push({ path: found, format: chosen })
    }
  }
  return files
}

function statOf(path: string): Stats {
  try {
    return statSync(path)
  } catch (cause) {
    throw new DataError(`data: expected a file or folder at ${path}, but it cannot be read; check the path`, { cause })
  }
}

/** Every visible file below `folder`; links are followed, a folder met on the way down to itself is not. */
function walk(folder: string, above: ReadonlySet<string>): string[] {
  const real = realpathSync(folder)
  if (above.has(real)) return []
  const within = new Set(above).add(real)
  return readdirSync(folder)
    .filter((name) => !name.startsWith('.'))
    .flatMap((name) => {
      const path = join(folder, name)
      const stats = statOf(path)
      if (stats.isDirectory()) return walk(path, within)
      return stats.isFile() ? [path] : []
    })
}

/**
 * The file's bytes, decompressed when its name ends in .gz (any number of members) or .zst (any number of frames).
 * @throws DataError naming the file if it cannot be read or its compression is damaged or cut off
 */
export async function* readBytes(path: string): AsyncGenerator<Buffer> {
  const raw = createReadStream(path, { highWaterMark: 1 << 18 })
  const isZstd = /\.zst$/i.test(path)
  const decoder = isZstd ? createZstdDecompress() : /\.gz$/i.test(path) ? createGunzip() : undefined
  const compressed = isZstd ? Readable.from(cutAtFrameEnds(raw, path)) : raw
  if (decoder !== undefined) compressed.once('error', (error: Error) => decoder.destroy(error))
  try {
    for await (const chunk of decoder === undefined ? raw : compressed.pipe(decoder)) yield chunk as Buffer
  } catch (cause) {
    if (cause instanceof DataError) throw cause
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new DataError(`data: ${path} cannot be read to its end (${why}); it is damaged or cut off, fetch it again`, {
      cause,
    })
  } finally {
    decoder?.destroy()
    compressed.destroy()
    raw.destroy()
  }
}
