// Runs as points of scaling laws: parameters, tokens, compute and loss, read from a CSV file by the names of its columns.
import { ConfigError, DataError } from '../../core/errors.ts'
import { shown } from '../../core/json.ts'
import { TRAINING_FLOPS } from './parametric-law.ts'

export interface RunPoint {
  readonly parameters: number
  readonly tokens: number
  /** As given, or 6 N D. */
  readonly flops: number
  /** Nats per token. */
  readonly loss: number
}

export type Quantity = 'parameters' | 'tokens' | 'flops' | 'loss'

/** Names of columns, lower case without anything but letters and digits, the best first. */
const KNOWN_NAMES: Readonly<Record<Quantity, readonly string[]>> = {
  parameters: ['parameters', 'params', 'nparams', 'paramcount', 'modelsize', 'modelparameters', 'size', 'n'],
  tokens: ['tokens', 'trainingtokens', 'traintokens', 'ntokens', 'tokencount', 'd', 't'],
  flops: ['flops', 'flop', 'trainingflops', 'trainingflop', 'compute', 'computebudget', 'c'],
  loss: ['loss', 'validationloss', 'valloss', 'evalloss', 'testloss', 'finalloss', 'trainloss', 'l'],
}

const bare = (name: string): string => name.toLowerCase().replaceAll(/[^a-z0-9]/g, '')

export interface PointFile {
  points: RunPoint[]
  /** The column of each quantity; the one that the file does not have was computed from C = 6 N D. */
  columns: Partial<Record<Quantity, string>>
  /** Rows left out because one of their cells was empty. */
  emptyRows: number
}

/**
 * Reads points from CSV text with a header line: parameters, loss, and tokens or FLOPs (the other is C = 6 N D).
 * @param named   columns to take instead of those found by name
 * @param source  of messages
 * @throws DataError naming the row and column of the first cell that is no positive number
 */
export function parsePoints(
  text: string,
  named: Partial<Record<Quantity, string | undefined>> = {},
  source = 'points',
): PointFile {
  const rows = parseCsv(text)
  const header = rows[0]?.map((name) => name.trim())
  if (header === undefined || rows.length < 2) {
    const got = header === undefined ? 'no line at all' : `the line ${shown(header.join(','))} alone`
    throw new DataError(
      `${source}: expected CSV text with a header line and a row for each run, got ${got}; add the runs, a row each`,
    )
  }
  const at = Object.fromEntries(
    (Object.keys(KNOWN_NAMES) as Quantity[]).map((quantity) => [
      quantity,
      findColumn(rows, header, quantity, named, source),
    ]),
  ) as Record<Quantity, number | undefined>
  if (at.parameters === undefined || at.loss === undefined || (at.tokens ?? at.flops) === undefined) {
    const missing = at.parameters === undefined ? 'parameters' : at.loss === undefined ? 'loss' : 'tokens'
    throw new DataError(
      `${source}: expected columns for parameters, tokens or FLOPs, and loss, got ${header.join(', ')}; name it with --${missing} COLUMN`,
    )
  }
  const points: RunPoint[] = []
  let emptyRows = 0
  for (const [index, row] of rows.entries()) {
    if (index === 0) continue
    const cell = (column: number | undefined): number | undefined => {
      if (column === undefined) return undefined
      const value = (row[column] ?? '').trim()
      if (value === '' || value.toLowerCase() === 'nan') return undefined
      const number = Number(value)
      if (!(number > 0 && Number.isFinite(number))) {
        throw new DataError(
          `${source}: row ${index + 1}, column ${header[column]}: expected a positive number, got ${value}; correct it or remove the row`,
        )
      }
      return number
    }
    const [parameters, loss] = [cell(at.parameters), cell(at.loss)]
    const [tokens, flops] = [cell(at.tokens), cell(at.flops)]
    if (parameters === undefined || loss === undefined || (tokens ?? flops) === undefined) {
      emptyRows++
      continue
    }
    points.push({
      parameters,
      loss,
      tokens: tokens ?? flops! / (TRAINING_FLOPS * parameters),
      flops: flops ?? TRAINING_FLOPS * parameters * tokens!,
    })
  }
  const columns = Object.fromEntries(
    Object.entries(at).flatMap(([quantity, column]) => (column === undefined ? [] : [[quantity, header[column]!]])),
  )
  return { points, columns, emptyRows }
}

function findColumn(
  rows: readonly (readonly string[])[],
  header: readonly string[],
  quantity: Quantity,
  given: Partial<Record<Quantity, string | undefined>>,
  source: string,
): number | undefined {
  const name = given[quantity]
  if (name !== undefined) {
    const column = header.indexOf(name)
    if (column < 0) {
      throw new ConfigError(
        `${source}: there is no column ${name} for ${quantity}; its columns are ${header.join(', ')}`,
      )
    }
    return column
  }
  // What was given to another quantity is that.
  const names = header.map((column) => (Object.values(given).includes(column) ? '' : bare(column)))
  // A column of labels may have such a name too.
  const hasNumbers = (column: number): boolean =>
    Number.isFinite(Number(rows.slice(1).find((row) => (row[column] ?? '').trim() !== '')?.[column]))
  for (const known of KNOWN_NAMES[quantity]) {
    const column = names.indexOf(known)
    if (column >= 0 && hasNumbers(column)) return column
  }
  return undefined
}

/** Rows of cells: commas (or semicolons or tabs, whichever the first line has), quotes doubled inside quotes. */
export function parseCsv(text: string): string[][] {
  const body = text.replace(/^\ufeff/, '')
  const firstLine = body.split(/\r?\n/, 1)[0] ?? ''
  const separator = [',', ';', '\t'].find((candidate) => firstLine.includes(candidate)) ?? ','
  const rows: string[][] = []
  let row: string[] = []
  let cell = ''
  let isQuoted = false
  const endRow = (): void => {
    row.push(cell)
    if (row.length > 1 || row[0] !== '') rows.push(row)
    row = []
    cell = ''
  }
  for (let i = 0; i < body.length; i++) {
    const character = body[i]!
    if (isQuoted) {
      if (character !== '"') cell += character
      else if (body[i + 1] === '"') {
        cell += '"'
        i++
      } else isQuoted = false
    } else if (character === '"' && cell === '') isQuoted = true
    else if (character === separator) {
      row.push(cell)
      cell = ''
    } else if (character === '\n') endRow()
    else if (character !== '\r') cell += character
  }
  if (cell !== '' || row.length > 0) endRow()
  return rows
}
