// Training byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909): count pieces once, then join the most frequent pair
// again and again, updating only the words it occurs in. Deterministic: ties go to the pair whose left token's bytes,
// then right token's bytes, come first. Counts are doubles: exact up to 2^53, where 32-bit counts overflow.
import { TokenizerError } from '../../core/errors.ts'
import type { AddedToken } from './added-tokens.ts'
import { trainMerges } from './merge-training.ts'
import { PieceCounter } from './piece-counter.ts'
import { LLAMA3_PATTERN } from './pretokenize.ts'
import { Tokenizer } from './tokenizer.ts'

export interface TokenizerTraining {
  /** Ids in all: 256 bytes, merges and special tokens. */
  vocabSize: number
  /** In the order of their ids, after all others. The first named `<|endoftext|>` becomes the end of a document. */
  specialTokens?: readonly string[]
  pattern?: string
  /** Pairs that occur less often are not joined. */
  minFrequency?: number
}

export const END_OF_TEXT = '<|endoftext|>'

/**
 * Trains a tokenizer on documents.
 * @throws TokenizerError if the vocabulary has no room for the bytes and special tokens
 */
export function trainTokenizer(documents: Iterable<string>, options: TokenizerTraining): Tokenizer {
  const counter = new PieceCounter(options.pattern)
  for (const document of documents) counter.add(document)
  return trainFromCounts(counter, options).tokenizer
}

/** A tokenizer and what it makes of the text that it was trained on. */
export interface TrainedTokenizer {
  tokenizer: Tokenizer
  bytesPerToken: number
}

/**
 * Trains from piece counts: the text itself may be larger than memory. Empties `counter`, because the counts of a large
 * corpus and the words that are made of them would not both fit.
 * @throws TokenizerError if the vocabulary has no room for the bytes and special tokens, or an option makes no sense
 */
export function trainFromCounts(counter: PieceCounter, options: TokenizerTraining): TrainedTokenizer {
  const steps = trainInSteps(counter, options)
  for (;;) {
    const step = steps.next()
    if (step.done) return step.value
  }
}

/** `trainFromCounts`, pausing now and then: yields the number of merges made, and returns the tokenizer. */
export function* trainInSteps(counter: PieceCounter, options: TokenizerTraining): Generator<number, TrainedTokenizer> {
  const { vocabSize, specialTokens = [END_OF_TEXT], pattern = LLAMA3_PATTERN, minFrequency = 2 } = options
  const total = vocabSize - 256 - specialTokens.length
  if (total < 0) {
    throw new TokenizerError(
      `tokenizer: vocabSize must be at least ${256 + specialTokens.length} (256 bytes and ${specialTokens.length} special tokens), got ${vocabSize}`,
    )
  }
  if (!(minFrequency >= 1)) throw new TokenizerError(`tokenizer: minFrequency must be at least 1, got ${minFrequency}`)
  const specials = new Set(specialTokens)
  if (specials.size < specialTokens.length || specials.has('')) {
    throw new TokenizerError('tokenizer: special tokens must differ from each other and from the empty text')
  }
  const vocabulary: Uint8Array[] = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte))
  const { merges, bytes, tokens } = yield* trainMerges(counter.take(), vocabulary, total, minFrequency)
  const addedTokens: AddedToken[] = specialTokens.map((content, i) => ({
    id: vocabulary.length + i,
    content,
    special: true,
  }))
  const end = addedTokens.find((token) => token.content === END_OF_TEXT)?.id
  const tokenizer = new Tokenizer({
    kind: 'bytes',
    vocabulary,
    merges,
    pattern,
    ignoreMerges: false,
    normalization: '',
    addedTokens,
    ...(end !== undefined && { eosTokenId: end, bosTokenId: end }),
    addsBos: false,
  })
  return { tokenizer, bytesPerToken: bytes / tokens }
}
