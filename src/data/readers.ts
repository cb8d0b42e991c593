// Readers: text and JSONL files and folders, plain, gzip or Zstandard, as one stream of documents. Memory is bounded
// by the longest document. A record that cannot be used is skipped and counted in the report, never fatal;
// tokenizing and splitting into train and validation happen elsewhere.
import { DataError } from '../core/errors.ts'
import type { Document, ReadReport } from './document.ts'
import { type FileFormat, listSourceFiles, readBytes, type SourceFile } from './source-files.ts'
import { type ByteRecord, splitBytes } from './split-bytes.ts'
import { decodeUtf8 } from './utf8.ts'

export type TextSplit = 'none' | 'lines' | 'blank-lines' | 'separator'

/** How files become documents. */
export interface ReadOptions {
  /** Read every file as this; default: by its name. */
  readonly format?: FileFormat | undefined
  /** JSONL: the field that holds the text. Default `text`. */
  readonly field?: string | undefined
  /**
   * Text files: `none` (default) a file is a document, `lines` a line is, `blank-lines` a run of lines between blank
   * lines is, `separator` what stands between two occurrences of `separator` is.
   */
  readonly split?: TextSplit | undefined
  /** The separator of `split: 'separator'`, for example `<|endoftext|>`. */
  readonly separator?: string | undefined
  /** Longer documents are dropped as `too-long`. Default 256 MiB. */
  readonly maxDocumentBytes?: number | undefined
}

const DEFAULT_MAX_DOCUMENT_BYTES = 2 ** 28
const NEWLINE = Buffer.from('\n')

/**
 * The documents of all files under `paths`, in the order of `listSourceFiles`. A byte-order mark at the start of a
 * file is removed; documents that are empty or only whitespace are dropped; line ends are kept inside a document,
 * and removed (LF or CRLF) where a line is the document.
 * @throws DataError for a missing path, a damaged compressed file, a UTF-16 file or options that contradict each other
 */
export async function* readDocuments(
  paths: readonly string[],
  options: ReadOptions,
  report: ReadReport,
): AsyncGenerator<Document> {
  checkOptions(options)
  let index = 0
  for (const file of listSourceFiles(paths, options.format, report)) {
    report.files++
    const texts = file.format === 'jsonl' ? readJsonl(file, options, report) : readText(file, options, report)
    for await (const { text, line } of texts) {
      if (text.trim() === '') {
        report.drop('empty', file.path, line, 'no text')
        continue
      }
      const isWholeFile = file.format === 'text' && (options.split ?? 'none') === 'none'
      yield { text, source: file.path, index: index++, ...(isWholeFile ? {} : { line }) }
    }
  }
}

function checkOptions(options: ReadOptions): void {
  const wantsSeparator = options.split === 'separator'
  if (wantsSeparator && !options.separator) {
    throw new DataError("data: split 'separator' expects a separator that is not empty; give --separator")
  }
  if (!wantsSeparator && options.separator !== undefined) {
    throw new DataError(
      `data: a separator has no effect with split '${options.split ?? 'none'}'; use split 'separator'`,
    )
  }
}

type Text = { text: string; line: number }

/** Records of a file, without byte-order mark; too long ones are reported and left out. */
async function* records(
  file: SourceFile,
  delimiter: Uint8Array | undefined,
  options: ReadOptions,
  report: ReadReport,
): AsyncGenerator<ByteRecord> {
  const maxBytes = options.maxDocumentBytes ?? DEFAULT_MAX_DOCUMENT_BYTES
  let isFirst = true
  for await (const record of splitBytes(readBytes(file.path), delimiter, maxBytes)) {
    if (record.isTooLong) {
      report.drop('too-long', file.path, record.line, `more than ${maxBytes} bytes`)
    } else {
      yield isFirst ? { ...record, bytes: withoutMark(record.bytes, file.path) } : record
    }
    isFirst = false
  }
}

function withoutMark(bytes: Buffer, path: string): Buffer {
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff)) {
    throw new DataError(
      `data: ${path} expected UTF-8, but it begins with the mark of UTF-16; convert it to UTF-8 first`,
    )
  }
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes
}

function decode(record: ByteRecord, file: SourceFile, report: ReadReport): string {
  const { text, replacedBytes } = decodeUtf8(record.bytes)
  if (replacedBytes > 0) report.replaced(replacedBytes, file.path, record.line)
  return text
}

async function* readText(file: SourceFile, options: ReadOptions, report: ReadReport): AsyncGenerator<Text> {
  const split = options.split ?? 'none'
  if (split === 'blank-lines') {
    yield* readParagraphs(file, options, report)
    return
  }
  const delimiter =
    split === 'lines' ? NEWLINE : split === 'separator' ? Buffer.from(options.separator ?? '') : undefined
  for await (const record of records(file, delimiter, options, report)) {
    const text = decode(record, file, report)
    yield { text: split === 'lines' && text.endsWith('\r') ? text.slice(0, -1) : text, line: record.line }
  }
}

async function* readParagraphs(file: SourceFile, options: ReadOptions, report: ReadReport): AsyncGenerator<Text> {
  const maxBytes = options.maxDocumentBytes ?? DEFAULT_MAX_DOCUMENT_BYTES
  let lines: string[] = []
  let bytes = 0
  let line = 1
  let isTooLong = false
  for await (const record of records(file, NEWLINE, options, report)) {
    const text = decode(record, file, report).replace(/\r$/, '')
    if (text.trim() === '') {
      if (lines.length > 0) yield { text: lines.join('\n'), line }
      lines = []
      bytes = 0
      isTooLong = false
      continue
    }
    if (isTooLong) continue
    if (lines.length === 0) line = record.line
    lines.push(text)
    bytes += record.bytes.length + 1
    if (bytes > maxBytes) {
      report.drop('too-long', file.path, line, `more than ${maxBytes} bytes`)
      lines = []
      isTooLong = true
    }
  }
  if (lines.length > 0) yield { text: lines.join('\n'), line }
}

async function* readJsonl(file: SourceFile, options: ReadOptions, report: ReadReport): AsyncGenerator<Text> {
  const field = options.field ?? 'text'
  for await (const record of records(file, NEWLINE, options, report)) {
    const source = decode(record, file, report)
    if (source.trim() === '') continue
    const drop = (reason: Parameters<ReadReport['drop']>[0], detail: string): void =>
      report.drop(reason, file.path, record.line, detail)
    let row: unknown
    try {
      row = JSON.parse(source)
    } catch (error) {
      drop('broken-json', error instanceof Error ? error.message : String(error))
      continue
    }
    if (typeof row !== 'object' || row === null || Array.isArray(row)) {
      drop('not-an-object', `expected an object with the field '${field}'`)
      continue
    }
    const value = Object.hasOwn(row, field) ? (row as Record<string, unknown>)[field] : undefined
    if (value === undefined || value === null) drop('missing-field', `no field '${field}'`)
    else if (typeof value !== 'string') drop('wrong-type', `field '${field}' is a ${typeof value}, not a string`)
    else yield { text: wellFormed(value, file, record.line, report), line: record.line }
  }
}

/** JSON escapes can spell half a surrogate pair, which no UTF-8 can hold. */
function wellFormed(text: string, file: SourceFile, line: number, report: ReadReport): string {
  if (text.isWellFormed()) return text
  const repaired = text.toWellFormed()
  let count = 0
  for (let at = 0; at < text.length; at++) if (text[at] !== repaired[at]) count++
  report.replaced(count, file.path, line)
  return repaired
}
