// Temporary folders, and datasets of made-up documents with uneven lengths.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { TokenDataset } from '../../src/data/dataset.ts'
import { ShardWriter } from '../../src/data/shards.ts'

/** A folder that is removed when the test file has run. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'trainyard-data-'))
  after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/**
 * Documents with the given lengths; every token of the dataset is another number (from 1 on), so that a test sees at
 * once where a token came from.
 */
export function numberedDocuments(lengths: readonly number[]): number[][] {
  let next = 1
  return lengths.map((length) => Array.from({ length }, () => next++))
}

/** Writes the documents as a dataset and opens it. Text bytes of a document: twice its tokens. */
export function writeDataset(
  documents: readonly (readonly number[])[],
  options: { maxTokensPerShard?: number; vocabSize?: number; bosTokenId?: number; eosTokenId?: number } = {},
): TokenDataset {
  const folder = join(temporaryFolder(), 'dataset')
  const writer = new ShardWriter(folder, {
    split: 'train',
    tokenizer: { hash: 'numbers', vocabSize: options.vocabSize ?? 100_000 },
    maxTokensPerShard: options.maxTokensPerShard,
    bosTokenId: options.bosTokenId,
    eosTokenId: options.eosTokenId,
  })
  for (const document of documents) writer.add(document, document.length * 2)
  writer.finish({ sources: [], dropped: {}, replacedBytes: 0, dropExamples: [] })
  return TokenDataset.open(folder)
}

/** Lengths from 1 to about 60, mostly short, the same every time. */
export function unevenLengths(count: number): number[] {
  return Array.from({ length: count }, (_, i) => 1 + ((i * i * 7 + i * 3) % 23) + (i % 9 === 4 ? 37 : 0))
}

/**
 * Writes a folder as `data prepare` does, without a tokenizer: random tokens in documents of 500; no
 * validation part where its tokens are 0.
 */
export function writeRandomData(
  folder: string,
  options: { vocabSize: number; trainTokens: number; validationTokens: number },
): void {
  const { vocabSize } = options
  let state = 1
  const next = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * vocabSize)
  }
  for (const [split, tokens] of [
    ['train', options.trainTokens],
    ['validation', options.validationTokens],
  ] as const) {
    if (tokens === 0) continue
    const writer = new ShardWriter(join(folder, split), { split, tokenizer: { hash: 'random', vocabSize } })
    for (let from = 0; from < tokens; from += 500) {
      writer.add(Array.from({ length: Math.min(500, tokens - from) }, next), 1000)
    }
    writer.finish({ sources: [], dropped: {}, replacedBytes: 0, dropExamples: [] })
  }
}
