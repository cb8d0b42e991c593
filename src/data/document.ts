// A document (one independent text) and the report that readers fill in: what was dropped and why, what was repaired.
import { oneLine } from '../core/one-line.ts'

/** One independent text: attention and positions never cross from one document into another. */
export interface Document {
  readonly text: string
  /** Where it came from: a file's path as the user gave it, or a name such as `sotu/1900_william_mc_kinley_r`. */
  readonly source: string
  /** Number of the document in its stream, from 0. */
  readonly index: number
  /** First line of the document in its source, from 1; absent where a source is one document. */
  readonly line?: number
}

/** A document's name in lists and messages: `source`, or `source:line` where a source holds several documents. */
export function documentName(document: Document): string {
  return document.line === undefined ? document.source : `${document.source}:${document.line}`
}

/** Why a document or a file was left out. */
export type DropReason =
  | 'empty'
  | 'broken-json'
  | 'not-an-object'
  | 'missing-field'
  | 'wrong-type'
  | 'too-long'
  | 'unknown-extension'

/** What happened to one record, kept for messages and the manifest. */
export interface ReportExample {
  readonly reason: DropReason | 'invalid-utf8'
  readonly source: string
  readonly line: number
  readonly detail: string
}

const MAX_EXAMPLES_PER_REASON = 5

/** Counts of what readers dropped or repaired, with the first few examples of each reason. */
export class ReadReport {
  readonly dropped: Partial<Record<DropReason, number>> = {}
  readonly examples: ReportExample[] = []
  /** Bytes that were not valid UTF-8 (and lone surrogates of JSON escapes): U+FFFD stands in their place. */
  replacedBytes = 0
  files = 0

  drop(reason: DropReason, source: string, line: number, detail: string): void {
    this.dropped[reason] = (this.dropped[reason] ?? 0) + 1
    this.#example(reason, source, line, detail)
  }

  replaced(count: number, source: string, line: number): void {
    this.replacedBytes += count
    this.#example('invalid-utf8', source, line, `${count} bytes replaced by U+FFFD`)
  }

  /** `3 broken-json (first: a.jsonl:7 Unexpected end of JSON input), 1 empty (...)`, or an empty string. */
  describeDropped(): string {
    const told = Object.entries(this.dropped)
      .map(([reason, count]) => {
        const first = this.examples.find((example) => example.reason === reason)
        const where = first === undefined ? '' : ` (first: ${first.source}:${first.line} ${first.detail})`
        return `${count} ${reason}${where}`
      })
      .join(', ')
    return oneLine(told)
  }

  #example(reason: ReportExample['reason'], source: string, line: number, detail: string): void {
    const known = this.examples.filter((example) => example.reason === reason).length
    if (known < MAX_EXAMPLES_PER_REASON) this.examples.push({ reason, source, line, detail })
  }
}
