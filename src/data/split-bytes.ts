// Cuts a stream of byte chunks at a delimiter, in memory bounded by the longest record. It knows nothing of text:
// decoding, blank lines and JSON are the readers' affair.

/** One record between two delimiters. */
export interface ByteRecord {
  /** Valid only until the next record is asked for: the buffer is used again. Empty when `isTooLong`. */
  readonly bytes: Buffer
  /** Line number (from 1) of the record's first byte. */
  readonly line: number
  /** The record had more than `maxBytes` bytes and was skipped. */
  readonly isTooLong: boolean
}

const NEWLINE = 0x0a

/**
 * The records of `chunks`. A delimiter at the very end opens no further record; no bytes at all give no record.
 * @param delimiter  bytes that end a record; undefined: everything is one record
 * @param maxBytes   longer records come out empty with `isTooLong`, and are never held in memory whole
 */
export async function* splitBytes(
  chunks: AsyncIterable<Buffer>,
  delimiter: Uint8Array | undefined,
  maxBytes: number,
): AsyncGenerator<ByteRecord> {
  let buffer = Buffer.allocUnsafe(1 << 16)
  let start = 0
  let end = 0
  let searched = 0
  let line = 1
  let skippedLines = 0
  let isSkipping = false

  const record = (to: number): ByteRecord => {
    const bytes = buffer.subarray(start, to)
    const isTooLong = isSkipping || bytes.length > maxBytes
    const made = { bytes: isTooLong ? buffer.subarray(0, 0) : bytes, line, isTooLong }
    line += skippedLines + countNewlines(bytes)
    skippedLines = 0
    isSkipping = false
    return made
  }

  for await (const chunk of chunks) {
    if (end + chunk.length > buffer.length) {
      const target =
        end - start + chunk.length > buffer.length ? Buffer.allocUnsafe(2 * (end - start + chunk.length)) : buffer
      buffer.copy(target, 0, start, end)
      buffer = target
      end -= start
      searched -= start
      start = 0
    }
    chunk.copy(buffer, end)
    end += chunk.length
    if (delimiter !== undefined) {
      const filled = buffer.subarray(0, end)
      for (;;) {
        const at = filled.indexOf(delimiter, searched)
        if (at < 0) break
        yield record(at)
        line += countNewlines(delimiter)
        start = at + delimiter.length
        searched = start
      }
      // A delimiter may begin in this chunk and end in the next.
      searched = Math.max(start, end - delimiter.length + 1)
    } else {
      searched = end
    }
    if (end - start > maxBytes) {
      isSkipping = true
      skippedLines += countNewlines(buffer.subarray(start, searched))
      start = searched
    }
  }
  if (end > start || isSkipping) yield record(end)
}

function countNewlines(bytes: Uint8Array): number {
  let count = 0
  for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, at + 1)) count++
  return count
}
