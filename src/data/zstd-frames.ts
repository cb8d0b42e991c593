// Cuts Zstandard data at the ends of its frames (RFC 8878, section 3.1). Node's decompressor silently drops what
// follows a frame's end within one write, so a file of several frames must reach it cut there. It decodes nothing.
import { DataError } from '../core/errors.ts'

const MAGIC = 0xfd2fb528
const SKIPPABLE_MAGIC = 0x184d2a50
const DICTIONARY_ID_BYTES = [0, 1, 2, 4]
const CONTENT_SIZE_BYTES = [0, 2, 4, 8]
const RLE_BLOCK = 1

type Part = 'magic' | 'descriptor' | 'header' | 'block' | 'content' | 'checksum' | 'skippable-size' | 'skippable'

/**
 * The bytes of `chunks`, no piece reaching over a frame's end.
 * @throws DataError where a frame was expected and something else came
 */
export async function* cutAtFrameEnds(chunks: AsyncIterable<Buffer>, path: string): AsyncGenerator<Buffer> {
  let part: Part = 'magic'
  let left = 4 // bytes of the part still to come
  let word = 0 // its first four bytes, little-endian
  let filled = 0
  let hasChecksum = false
  let isLastBlock = false

  /** Goes on to what follows the finished part. @returns whether a frame has ended */
  const advance = (): boolean => {
    const value = word
    const go = (next: Part, bytes: number): false => {
      part = next
      left = bytes
      return false
    }
    const end = (): true => {
      go('magic', 4)
      return true
    }
    word = 0
    filled = 0
    switch (part) {
      case 'magic':
        if (value === MAGIC) return go('descriptor', 1)
        if ((value & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC) return go('skippable-size', 4)
        throw new DataError(`data: ${path} expected a Zstandard frame, got 0x${value.toString(16)}; it is damaged`)
      case 'descriptor': {
        hasChecksum = (value & 4) !== 0
        const isSingleSegment = (value & 32) !== 0
        const sizeBytes = isSingleSegment && value >>> 6 === 0 ? 1 : CONTENT_SIZE_BYTES[value >>> 6]!
        return go('header', (isSingleSegment ? 0 : 1) + DICTIONARY_ID_BYTES[value & 3]! + sizeBytes)
      }
      case 'header':
        return go('block', 3)
      case 'block':
        isLastBlock = (value & 1) !== 0
        return go('content', ((value >>> 1) & 3) === RLE_BLOCK ? 1 : value >>> 3)
      case 'content':
        if (!isLastBlock) return go('block', 3)
        return hasChecksum ? go('checksum', 4) : end()
      case 'skippable-size':
        return go('skippable', value)
      case 'checksum':
      case 'skippable':
        return end()
    }
  }

  for await (const chunk of chunks) {
    let start = 0
    let at = 0
    while (at < chunk.length) {
      const taken = Math.min(left, chunk.length - at)
      for (let k = 0; k < taken && filled < 4; k++, filled++) word = (word | (chunk[at + k]! << (8 * filled))) >>> 0
      at += taken
      left -= taken
      while (left === 0) {
        if (!advance()) continue
        yield chunk.subarray(start, at)
        start = at
      }
    }
    if (start < chunk.length) yield chunk.subarray(start)
  }
}
