import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { TokenDataset } from '../../src/data/dataset.ts'
import type { HostBatch } from '../../src/data/host-batch.ts'
import { DataLoader, type LoaderOptions } from '../../src/data/loader.ts'
import { epochOrder } from '../../src/data/shuffled-stream.ts'
import { numberedDocuments, unevenLengths, writeDataset } from './fixtures.ts'

type Row = { tokens: number[]; targets: number[]; positions: number[]; docStart: number[]; index: bigint }

function rowsOf(batch: HostBatch): Row[] {
  return Array.from({ length: batch.batchSize }, (_, row) => {
    const part = (array: Int32Array): number[] => [...array.subarray(row * batch.seqLen, (row + 1) * batch.seqLen)]
    const low = BigInt(batch.sampleIndex[row * 2]! >>> 0)
    const high = BigInt(batch.sampleIndex[row * 2 + 1]! >>> 0)
    return {
      tokens: part(batch.tokens),
      targets: part(batch.targets),
      positions: part(batch.positions),
      docStart: part(batch.docStart),
      index: (high << 32n) | low,
    }
  })
}

function stepRows(loader: DataLoader, step: number): Row[] {
  return rowsOf(loader.step(step).microBatch(0, loader.options.rowsPerStep))
}

/**
 * The rows of a run from its start, written down the slow way: all epochs' documents laid out in a list of
 * (document, token index), then cut.
 */
function slowRows(documents: readonly (readonly number[])[], options: LoaderOptions, count: number): Row[] {
  const { seqLen, mode, seed } = options
  const stream: { document: number; k: number; visit: number }[] = []
  for (let epoch = 0, visit = 0; stream.length <= count * seqLen; epoch++) {
    for (const document of epochOrder(documents.length, seed, epoch)) {
      documents[document]!.forEach((_, k) => {
        stream.push({ document, k, visit })
      })
      visit++
    }
  }
  const tokenAt = (at: number): number => documents[stream[at]!.document]![stream[at]!.k]!
  return Array.from({ length: count }, (_, index) => {
    const row: Row = { tokens: [], targets: [], positions: [], docStart: [], index: BigInt(index) }
    for (let t = 0; t < seqLen; t++) {
      const at = index * seqLen + t
      const { document, k, visit } = stream[at]!
      row.tokens.push(tokenAt(at))
      if (mode === 'windows') {
        row.targets.push(tokenAt(at + 1))
        row.positions.push(t)
        row.docStart.push(0)
      } else {
        row.targets.push(documents[document]![k + 1] ?? -1)
        let start = t
        while (start > 0 && stream[at - t + start - 1]!.visit === visit) start--
        row.positions.push(t - start)
        row.docStart.push(start)
      }
    }
    return row
  })
}

test('rows equal a slow straightforward derivation, over epochs and shards, in both modes', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 25 }),
      fc.integer({ min: 1, max: 17 }),
      fc.integer({ min: 1, max: 5 }),
      fc.constantFrom('windows' as const, 'packed' as const),
      fc.integer({ min: 0, max: 2 ** 53 - 1 }),
      (lengths, seqLen, rowsPerStep, mode, seed) => {
        fc.pre(lengths.some((length) => length > 1))
        const documents = numberedDocuments(lengths)
        const options = { mode, seqLen, rowsPerStep, seed }
        const loader = new DataLoader(writeDataset(documents, { maxTokensPerShard: 40 }), options)
        const steps = 12
        const expected = slowRows(documents, options, steps * rowsPerStep)
        for (let step = 0; step < steps; step++) {
          const rows = expected.slice(step * rowsPerStep, (step + 1) * rowsPerStep)
          assert.deepEqual(stepRows(loader, step), rows)
          const trained = rows.flatMap(({ targets }) => targets).filter((target) => target !== -1).length
          assert.equal(loader.step(step).trainedTokens, trained)
        }
      },
    ),
    { numRuns: 60 },
  )
})

const LENGTHS = unevenLengths(120)
const OPTIONS = { mode: 'packed', seqLen: 32, rowsPerStep: 12, seed: 7 } as const

function dataset(): TokenDataset {
  return writeDataset(numberedDocuments(LENGTHS), { maxTokensPerShard: 300 })
}

test('the rows of a step do not depend on ranks, micro-batches, the order of asking or earlier steps', () => {
  const loader = new DataLoader(dataset(), OPTIONS)
  assert.ok(loader.dataset.manifest.shards.length > 3)
  for (const step of [5, 0, 11, 3]) {
    const whole = stepRows(new DataLoader(loader.dataset, OPTIONS), step)
    for (const [microBatchSize, numRanks] of [
      [1, 1],
      [4, 1],
      [1, 4],
      [2, 3],
      [6, 2],
    ] as const) {
      const batch = loader.step(step)
      const count = batch.microBatchCount(microBatchSize, numRanks)
      const rows: Row[] = []
      let trained = 0
      for (let i = count - 1; i >= 0; i--) {
        for (let rank = numRanks - 1; rank >= 0; rank--) {
          const part = batch.microBatch(i, microBatchSize, rank, numRanks)
          trained += part.trainedTokens
          rows.push(...rowsOf(part))
        }
      }
      rows.sort((a, b) => Number(a.index - b.index))
      assert.deepEqual(rows, whole)
      assert.equal(trained, batch.trainedTokens)
    }
  }
  assert.throws(() => loader.step(0).microBatch(0, 5), /12 rows a step expected to be a multiple/)
  assert.throws(() => loader.step(0).microBatch(3, 4), /micro-batch 3 of rank 0/)
  assert.throws(() => loader.step(0).microBatch(0, 4, 1), /micro-batch 0 of rank 1/)
  assert.throws(() => loader.step(-1), /step expected a whole number/)
})

test('every token is a target once an epoch: all with windows, all but first ones with packed', () => {
  const documents = numberedDocuments(LENGTHS)
  const total = documents.flat().length
  const firsts = new Set(documents.map(([first]) => first!))
  for (const mode of ['windows', 'packed'] as const) {
    // Rows of one position and a step of one epoch, so that epochs end exactly at steps.
    for (const seqLen of [1, total]) {
      const loader = new DataLoader(dataset(), { ...OPTIONS, mode, seqLen, rowsPerStep: total / seqLen })
      for (let epoch = 0; epoch < 3; epoch++) {
        const step = loader.step(epoch)
        const seen = new Map<number, number>()
        for (const target of step.microBatch(0, step.rows).targets) {
          if (target !== -1) seen.set(target, (seen.get(target) ?? 0) + 1)
        }
        if (mode === 'packed') {
          assert.equal(seen.size, total - documents.length)
          assert.ok([...seen].every(([target, times]) => times === 1 && !firsts.has(target)))
          assert.equal(step.trainedTokens, loader.trainedTokensPerEpoch)
        } else {
          // The window reaches one token into the next epoch: the first token of this epoch was the last target of
          // the one before.
          const [own, next] = [0, 1].map((later) => documents[epochOrder(documents.length, 7, epoch + later)[0]!]![0]!)
          seen.set(own!, (seen.get(own!) ?? 0) + 1)
          seen.set(next!, seen.get(next!)! - 1)
          assert.equal(seen.size, total)
          assert.ok([...seen.values()].every((times) => times === 1))
        }
      }
    }
  }
})

test('resuming at a step gives the rows of the run, also where an epoch ends inside the step', () => {
  const running = new DataLoader(dataset(), OPTIONS)
  const steps = Math.ceil(running.stepsPerEpoch * 2.5)
  const run = Array.from({ length: steps }, (_, step) => stepRows(running, step))
  let inside = 0
  for (let step = 0; step < steps; step++) {
    const state = JSON.parse(JSON.stringify(running.describeState(step)))
    const resumed = new DataLoader(dataset(), OPTIONS)
    assert.equal(resumed.checkState(state), step)
    assert.deepEqual(stepRows(resumed, step), run[step])
    assert.equal(state.epoch, Math.floor(step / running.stepsPerEpoch))
    if (
      running.describeState(step + 1).epoch !== state.epoch &&
      !Number.isInteger((step + 1) / running.stepsPerEpoch)
    ) {
      inside++
    }
  }
  assert.equal(inside, 2)
})

test('resuming with other data or options that change the order is refused', () => {
  const loader = new DataLoader(dataset(), OPTIONS)
  const state = loader.describeState(4)
  const other = new DataLoader(writeDataset(numberedDocuments([...LENGTHS, 3])), OPTIONS)
  assert.throws(() => other.checkState(state), /trained on data with hash/)
  for (const change of [{ seed: 8 }, { mode: 'windows' as const }, { seqLen: 16 }, { rowsPerStep: 6 }]) {
    const [name] = Object.keys(change)
    const changed = new DataLoader(loader.dataset, { ...OPTIONS, ...change })
    assert.throws(() => changed.checkState(state), new RegExp(`expected ${name} .* as in the checkpoint`))
  }
})

test('orders are permutations, differ by seed and epoch, and put a document anywhere', () => {
  const count = 20
  const hits = new Float64Array(count)
  const runs = 4000
  const orders = new Set<string>()
  for (let epoch = 0; epoch < runs; epoch++) {
    const order = epochOrder(count, 3, epoch)
    assert.equal(new Set(order).size, count)
    hits[order.indexOf(0)]!++
    orders.add(order.join())
  }
  assert.equal(orders.size, runs)
  assert.notDeepEqual(epochOrder(count, 3, 0), epochOrder(count, 4, 0))
  // Chi-square with 19 degrees of freedom: above 43.8 once in a thousand seeds.
  const expected = runs / count
  const chiSquare = hits.reduce((sum, hit) => sum + (hit - expected) ** 2 / expected, 0)
  assert.ok(chiSquare < 43.8, `chi-square ${chiSquare}`)
})

test('row numbers keep their high word, and far steps cost nothing', () => {
  const loader = new DataLoader(dataset(), { ...OPTIONS, rowsPerStep: 2 })
  const step = 3_000_000_000
  const batch = loader.step(step)
  assert.deepEqual(
    rowsOf(batch.microBatch(0, 2)).map(({ index }) => index),
    [6_000_000_000n, 6_000_000_001n],
  )
  assert.equal(batch.trainedTokens, batch.microBatch(0, 2).trainedTokens)
})

test('a dataset with nothing to train on is refused', () => {
  const single = writeDataset([[1], [2], [3]])
  assert.throws(() => new DataLoader(single, OPTIONS), /only documents of one token/)
  assert.equal(new DataLoader(single, { ...OPTIONS, mode: 'windows' }).trainedTokensPerEpoch, 3)
  assert.throws(() => new DataLoader(writeDataset([[1]]), OPTIONS), /at least 2 tokens/)
  assert.throws(() => new DataLoader(single, { ...OPTIONS, seqLen: 0 }), /seqLen expected/)
  assert.throws(() => new DataLoader(single, { ...OPTIONS, seed: -1 }), /seed expected/)
})
