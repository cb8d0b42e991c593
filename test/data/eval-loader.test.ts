import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EvalLoader, type EvalLoaderOptions } from '../../src/data/eval-loader.ts'
import { numberedDocuments, unevenLengths, writeDataset } from './fixtures.ts'

const LENGTHS = unevenLengths(60)
const EOS = 90_000
const BOS = 90_001

/** For each scored target in order of rows: the target and the tokens before it that its position may look at. */
function scored(loader: EvalLoader, batchSize: number, numRanks = 1): { target: number; context: number[] }[] {
  const found: { target: number; context: number[] }[] = []
  for (let i = 0; i < loader.batchCount(batchSize, numRanks); i++) {
    for (let rank = 0; rank < numRanks; rank++) {
      const batch = loader.batch(i, batchSize, rank, numRanks)
      let count = 0
      for (let row = 0; row < batchSize; row++) {
        const base = row * loader.seqLen
        for (let t = 0; t < loader.seqLen; t++) {
          const start = batch.docStart[base + t]!
          assert.ok(start >= 0 && start <= t)
          const target = batch.targets[base + t]!
          if (target === -1) continue
          assert.equal(batch.positions[base + t], t - start)
          found.push({ target, context: [...batch.tokens.subarray(base + start, base + t + 1)] })
          count++
        }
      }
      assert.equal(batch.trainedTokens, count)
    }
  }
  return found
}

test('every token is scored once, with the context that stride promises', () => {
  const plain = numberedDocuments(LENGTHS)
  const withEos = plain.map((document) => [...document, EOS])
  const withBos = withEos.map((document) => [BOS, ...document])
  for (const [seqLen, stride] of [
    [16, 16],
    [16, 5],
    [7, 1],
    [1, 1],
    [200, 200],
  ] as const) {
    for (const documents of [withEos, withBos]) {
      const hasBos = documents === withBos
      const dataset = writeDataset(documents, { eosTokenId: EOS, ...(hasBos ? { bosTokenId: BOS } : {}) })
      const loader = new EvalLoader(dataset, { seqLen, stride })
      // x: what a document's targets are predicted from, whole.
      const whole = documents.map((document) => (hasBos ? document : [EOS, ...document]))
      const found = scored(loader, 3)
      assert.deepEqual(
        found.map(({ target }) => target),
        whole.flatMap((x) => x.slice(1)),
      )
      assert.equal(loader.scoredTokens, found.length)
      assert.equal(loader.isExact, true)
      assert.equal(loader.textBytes, dataset.totalTextBytes)
      const contexts = whole.flatMap((x) => x.slice(1).map((_, k) => x.slice(0, k + 1)))
      found.forEach(({ context }, k) => {
        const full = contexts[k]!
        assert.deepEqual(context, full.slice(-context.length))
        assert.ok(context.length >= Math.min(full.length, seqLen - stride + 1))
      })
      assert.deepEqual(scored(loader, 2, 3), found)
    }
  }
})

test('start token, unscored EOS, chosen documents, and what cannot be exact', () => {
  const dataset = writeDataset(
    numberedDocuments([3, 2, 4]).map((document) => [...document, EOS]),
    { eosTokenId: EOS },
  )
  const targets = (options: Partial<EvalLoaderOptions>): number[] =>
    scored(new EvalLoader(dataset, { seqLen: 4, ...options }), 1).map(({ target }) => target)
  assert.deepEqual(targets({ scoreEos: false }), [1, 2, 3, 4, 5, 6, 7, 8, 9])
  const chosen = new EvalLoader(dataset, { seqLen: 8, documents: [2, 1], startTokenId: 77 })
  assert.equal(chosen.textBytes, (5 + 3) * 2)
  assert.deepEqual(scored(chosen, 1)[0], { target: 6, context: [77] })
  assert.deepEqual(
    scored(chosen, 1).map(({ target }) => target),
    [6, 7, 8, 9, EOS, 4, 5, EOS],
  )
  assert.equal(chosen.rowCount, 1, 'two short documents share a row')
  const bare = new EvalLoader(writeDataset(numberedDocuments([3, 2])), { seqLen: 4 })
  assert.equal(bare.isExact, false)
  assert.equal(bare.scoredTokens, 3)
  assert.throws(() => new EvalLoader(dataset, { seqLen: 4, stride: 5 }), /stride expected/)
  assert.throws(() => new EvalLoader(dataset, { seqLen: 4, startTokenId: 100_000 }), /startTokenId expected/)
})
