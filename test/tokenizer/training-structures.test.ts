// What tokenizer training is built of, each against something simple: pairs against a Map, the heap against sorting,
// lists of words through sweeps, the piece counter after it was emptied.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { grown } from '../../src/data/tokenizer/flat-arrays.ts'
import { PairHeap } from '../../src/data/tokenizer/pair-heap.ts'
import { PairTable } from '../../src/data/tokenizer/pair-table.ts'
import { PieceCounter } from '../../src/data/tokenizer/piece-counter.ts'
import { TrainingWords } from '../../src/data/tokenizer/training-words.ts'
import { WordLists } from '../../src/data/tokenizer/word-lists.ts'

test('grown keeps the values and gives the old memory back', () => {
  const old = Int32Array.of(1, -2, 3)
  const longer = grown(old, 5)
  assert.deepEqual([...longer], [1, -2, 3, 0, 0])
  assert.equal(old.length, 0)
})

test('pairs are found, forgotten and numbered again as in a Map', () => {
  const table = new PairTable()
  const expected = new Map<string, number>()
  const numbers = fc.sample(fc.tuple(fc.nat(120), fc.nat(120), fc.boolean()), { numRuns: 40_000, seed: 7 })
  for (const [left, right, isKept] of numbers) {
    const name = `${left} ${right}`
    const known = expected.get(name)
    assert.equal(table.find(left, right), known ?? -1)
    if (known === undefined) {
      const pair = table.add(left, right, 5)
      expected.set(name, pair)
    } else if (!isKept) {
      table.forget(known)
      table.recycle(known)
      expected.delete(name)
    }
  }
  assert.ok(expected.size > 5000)
  assert.equal(new Set(expected.values()).size, expected.size)
  assert.equal(table.forgotten, 0)
  for (const [name, pair] of expected) assert.equal(`${table.left[pair]} ${table.right[pair]}`, name)
})

test('the heap hands pairs out by present count, then by bytes, without those forgotten', () => {
  const keys = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte))
  const pairs = new PairTable()
  const heap = new PairHeap(pairs, keys)
  const alive: number[] = []
  for (let left = 0; left < 256; left++) {
    for (let right = 0; right < 200; right++) {
      const pair = pairs.add(left, right, 2 + ((left * 7919 + right * 104_729) % 1000))
      heap.push(pair)
      if (right < 150) alive.push(pair)
    }
  }
  for (const pair of alive) pairs.counts[pair]! -= (pair % 5) * (pairs.counts[pair]! > 10 ? 2 : 0)
  // More than half: the heap is made anew without them.
  for (const pair of alive.splice(5000)) pairs.forget(pair)
  for (let left = 0; left < 256; left++)
    for (let right = 150; right < 200; right++) pairs.forget(pairs.find(left, right))
  assert.ok(pairs.forgotten > 40_000)
  const name = (pair: number): string => `${pairs.counts[pair]} ${pairs.left[pair]} ${pairs.right[pair]}`
  const expected = alive
    .sort(
      (a, b) =>
        pairs.counts[b]! - pairs.counts[a]! || pairs.left[a]! - pairs.left[b]! || pairs.right[a]! - pairs.right[b]!,
    )
    .map(name)
  const popped: string[] = []
  for (let pair = heap.pop(); pair >= 0; pair = heap.pop()) popped.push(name(pair))
  assert.deepEqual(popped, expected)
  assert.equal(pairs.forgotten, 0)
})

test('sweeping lists leaves out forgotten pairs and words that lost their pair, and nothing else', () => {
  const counter = new PieceCounter('')
  for (const piece of ['ab', 'xab', 'abc', 'ac']) counter.add(piece)
  const words = new TrainingWords(counter.take(), 300)
  const pairs = new PairTable()
  const lists = new WordLists(words, pairs)
  const [a, b, c] = [0x61, 0x62, 0x63]
  const fill = (left: number, right: number, of: number[]): number => {
    lists.reserve(1 + of.length, -1)
    const pair = pairs.add(left, right, of.length)
    lists.cells.set(of, lists.open(pair, of.length))
    return pair
  }
  const wordsOf = (pair: number): number[] => {
    const found: number[] = []
    for (let at = pairs.lists[pair]! + 1; at < lists.end && lists.cells[at]! >= 0; at++) found.push(lists.cells[at]!)
    return found
  }
  lists.reserve(20, -1)
  const forgotten = fill(b, c, [2])
  const swept = fill(a, b, [0, 1, 2, 3])
  const kept = fill(a, c, [0, 1, 2, 3])
  pairs.forget(forgotten)
  lists.reserve(100, kept)
  assert.deepEqual(wordsOf(swept), [0, 1, 2])
  assert.deepEqual(wordsOf(kept), [0, 1, 2, 3])
  assert.equal(lists.end, 9)
  lists.reserve(1000, -1)
  assert.deepEqual(wordsOf(kept), [3])
})

test('a counter that was emptied counts afresh, and pieces of a megabyte are pieces like others', () => {
  const counter = new PieceCounter()
  const long = '\u4f60'.repeat(400_000)
  counter.add(`one two two ${long}`)
  counter.add(long)
  const { size, bytes, starts, counts } = counter.take()
  const pieces = Array.from({ length: size }, (_, p) => [
    Buffer.from(bytes.subarray(starts[p], starts[p + 1])).toString(),
    counts[p],
  ])
  assert.deepEqual(pieces, [
    ['one', 1],
    [' two', 2],
    [` ${long}`, 1],
    [long, 1],
  ])
  assert.deepEqual([counter.size, counter.distinctBytes, [...counter]], [0, 0, []])
  counter.add('two')
  assert.deepEqual([...counter], [['two', 1]])
})
