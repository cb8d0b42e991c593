// A small real tokenizer for tests: an id is a byte, 256 is BOS, 257 is EOS.
import type { Encoder } from '../../src/data/encoder.ts'

export const BOS = 256
export const EOS = 257

export function byteEncoder(options: { bos?: boolean; eos?: boolean; vocabSize?: number } = {}): Encoder {
  return {
    vocabSize: options.vocabSize ?? 258,
    hash: `bytes-${options.vocabSize ?? 258}`,
    ...(options.bos ? { bosTokenId: BOS } : {}),
    ...((options.eos ?? true) ? { eosTokenId: EOS } : {}),
    encode: (text) => Buffer.from(text),
  }
}
