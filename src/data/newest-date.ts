// The newest date among the documents of source files, by a field of JSONL records: what a model can know of at most.
import { readBytes, type SourceFile } from './source-files.ts'
import { splitBytes } from './split-bytes.ts'

const NEWLINE = Buffer.from('\n')
/** Bytes; longer records are counted as undated. */
const LONGEST_RECORD = 1 << 28

export interface NewestDate {
  /** ISO 8601, as far as the record says: '2024-05-01'. */
  readonly date: string
  /** Records that had a date. */
  readonly dated: number
  /** Records without one that could be read. */
  readonly undated: number
}

/**
 * @param field  name of the field; seconds or milliseconds since 1970, or text that begins with an ISO date
 * @returns undefined where no record has such a date
 */
export async function newestDate(files: readonly SourceFile[], field: string): Promise<NewestDate | undefined> {
  let newest: string | undefined
  let [dated, undated] = [0, 0]
  for (const file of files.filter(({ format }) => format === 'jsonl')) {
    for await (const { bytes, isTooLong } of splitBytes(readBytes(file.path), NEWLINE, LONGEST_RECORD)) {
      if (bytes.length === 0 && !isTooLong) continue
      const date = dateOf(bytes, field)
      if (date === undefined) undated++
      else {
        dated++
        if (newest === undefined || date > newest) newest = date
      }
    }
  }
  return newest === undefined ? undefined : { date: newest, dated, undated }
}

/** Years that dates of texts have. */
const YEARS = [1000, 2200] as const

function dateOf(line: Buffer, field: string): string | undefined {
  let value: unknown
  try {
    value = (JSON.parse(line.toString('utf8')) as Record<string, unknown> | null)?.[field]
  } catch {
    return undefined
  }
  if (typeof value === 'number' && Number.isFinite(value)) {
    // Seconds until the year 5138, milliseconds from 1973 on.
    const date = new Date(Math.abs(value) < 1e11 ? value * 1000 : value)
    return Number.isNaN(date.getTime()) ? undefined : inRange(date.toISOString().slice(0, 10))
  }
  const match = typeof value === 'string' ? /^\d{4}(-\d{2}(-\d{2})?)?/.exec(value) : null
  return match === null || Number.isNaN(Date.parse(match[0])) ? undefined : inRange(match[0])
}

function inRange(date: string): string | undefined {
  const year = Number(date.slice(0, 4))
  return year >= YEARS[0] && year <= YEARS[1] ? date : undefined
}
