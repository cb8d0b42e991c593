// UTF-8 decoding that counts what it had to replace. Invalid input is kept with U+FFFD in its place, never dropped.
import { isUtf8 } from 'node:buffer'

/** Text of `bytes`, and how many of them were not part of a valid UTF-8 sequence. */
export function decodeUtf8(bytes: Buffer): { text: string; replacedBytes: number } {
  const text = bytes.toString('utf8')
  return { text, replacedBytes: isUtf8(bytes) ? 0 : countInvalidUtf8(bytes) }
}

/**
 * Number of bytes that belong to no well-formed UTF-8 sequence (Unicode 15, table 3-7: no overlong forms,
 * no surrogates, nothing above U+10FFFF).
 */
export function countInvalidUtf8(bytes: Uint8Array): number {
  let invalid = 0
  let at = 0
  while (at < bytes.length) {
    const length = sequenceLength(bytes, at)
    if (length === 0) {
      invalid++
      at++
    } else {
      at += length
    }
  }
  return invalid
}

/** Length of the well-formed sequence at `at`, or 0. */
function sequenceLength(bytes: Uint8Array, at: number): number {
  const lead = bytes[at]!
  if (lead < 0x80) return 1
  if (lead < 0xc2 || lead > 0xf4) return 0
  const length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4
  if (at + length > bytes.length) return 0
  const second = bytes[at + 1]!
  const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80
  const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf
  if (second < low || second > high) return 0
  for (let k = 2; k < length; k++) {
    if ((bytes[at + k]! & 0xc0) !== 0x80) return 0
  }
  return length
}
