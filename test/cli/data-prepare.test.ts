// trainyard data prepare through the real program: files of several kinds become shards that pretrain trains on, the
// held-out documents are not in the tokenizer, nothing is overwritten unasked.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import { TokenDataset } from '../../src/data/dataset.ts'
import { loadTokenizer } from '../../src/data/tokenizer/load.ts'
import { emptyFolder, PROGRAM, trainyard } from './program.ts'

const folder = emptyFolder()
const run = (...words: string[]) => trainyard(words, {}, folder)
const sentence = (i: number): string => `Document ${i} says that ${i} plus ${i} is ${2 * i}, and nothing else at all. `
mkdirSync(join(folder, 'in'))
writeFileSync(join(folder, 'in', 'a.txt'), sentence(1).repeat(40))
writeFileSync(join(folder, 'in', 'held.txt'), 'zyzzyva zyzzyva zyzzyva '.repeat(200))
const lines = Array.from({ length: 30 }, (_, i) => JSON.stringify({ text: sentence(i + 2).repeat(20) }))
writeFileSync(join(folder, 'in', 'b.jsonl'), [...lines, '{broken', '{"other": 1}', '{"text": " "}'].join('\n'))
writeFileSync(join(folder, 'in', 'c.jsonl.gz'), gzipSync(`${JSON.stringify({ text: sentence(99).repeat(30) })}\n`))
const prepared = run(
  'data',
  'prepare',
  'in',
  '--out',
  'data',
  '--train-tokenizer',
  '400',
  '--validation-documents',
  join(folder, 'in', 'held.txt'),
)

test('every kind of file is read, and what is left out is counted', () => {
  assert.equal(prepared.status, 0, prepared.stderr)
  assert.match(prepared.stderr, /1 broken-json/)
  assert.match(prepared.stderr, /1 missing-field/)
  assert.match(prepared.stderr, /1 empty/)
  const train = TokenDataset.open(join(folder, 'data', 'train'))
  assert.equal(train.documentCount, 32)
  assert.equal(TokenDataset.open(join(folder, 'data', 'validation')).documentCount, 1)
  const tokenizer = loadTokenizer(join(folder, 'data'))
  const text = tokenizer.decode([...train.documentTokens(0)], { skipSpecialTokens: true })
  assert.equal(text, sentence(1).repeat(40))
})

test('the tokenizer has not seen the held-out text', () => {
  const tokenizer = loadTokenizer(join(folder, 'data'))
  assert.equal(tokenizer.encode(' Document').length, 1)
  assert.ok(tokenizer.encode(' zyzzyva').length > 4)
})

test('pretrain trains on it, and its checkpoint generates with the tokenizer', () => {
  const small = [
    '--depth',
    '1',
    '--max-steps',
    '3',
    '--seq-len',
    '32',
    '--batch-tokens',
    '256',
    '--micro-batch-size',
    '4',
  ]
  const { status, stderr, stdout } = run('pretrain', '--data', 'data', '--out', 'run', ...small, '--threads', '1')
  assert.equal(status, 0, stderr)
  assert.match(stdout, /validation: loss \d/)
  const sample = run('generate', 'run', '--prompt', 'Document', '--max-new-tokens', '5', '--threads', '1')
  assert.equal(sample.status, 0, sample.stderr)
  assert.match(sample.stdout, /^Document/)
})

test('the same input gives the same shards', () => {
  run(
    'data',
    'prepare',
    'in',
    '--out',
    'again',
    '--tokenizer',
    'data',
    '--validation-documents',
    join(folder, 'in', 'held.txt'),
  )
  const ids = (name: string): number[] => [...TokenDataset.open(join(folder, name, 'train')).documentTokens(7)]
  assert.deepEqual(ids('again'), ids('data'))
})

test('a dataset that is there stays, unless it is to be replaced', () => {
  const words = ['data', 'prepare', 'in', '--out', 'data', '--tokenizer', 'data', '--validation-fraction', '0']
  const refused = run(...words)
  assert.notEqual(refused.status, 0)
  assert.match(refused.stderr, /overwrite/)
  assert.equal(TokenDataset.open(join(folder, 'data', 'validation')).documentCount, 1)
  const replaced = run(...words, '--overwrite')
  assert.equal(replaced.status, 0, replaced.stderr)
  assert.equal(TokenDataset.open(join(folder, 'data', 'train')).documentCount, 33)
  assert.ok(!existsSync(join(folder, 'data', 'validation', 'manifest.json')))
})

test('an interrupted run ends with 130 and leaves no shard, and the next one needs no --overwrite', async () => {
  // Numbers do not repeat, so encoding takes seconds; small shards, so that some are complete by then.
  const numbers = (i: number): string => Array.from({ length: 2000 }, (_, k) => (i * 2000 + k) * 7919).join(' ')
  const long = Array.from({ length: 2500 }, (_, i) => JSON.stringify({ text: numbers(i) })).join('\n')
  writeFileSync(join(folder, 'long.jsonl'), long)
  const words = ['--tokenizer', 'data', '--validation-fraction', '0', '--max-tokens-per-shard', '100000']
  const child = spawn(process.execPath, [PROGRAM, 'data', 'prepare', 'long.jsonl', '--out', 'cut', ...words], {
    cwd: folder,
    stdio: 'ignore',
  })
  const ended = once(child, 'exit')
  const firstShard = join(folder, 'cut', 'train', 'tokens-00000.bin')
  while (child.exitCode === null && !existsSync(firstShard)) await sleep(5)
  assert.ok(existsSync(firstShard))
  child.kill('SIGINT')
  assert.deepEqual(await ended, [130, null])
  assert.deepEqual(readdirSync(join(folder, 'cut'), { recursive: true }), ['train'])
  assert.equal(run('data', 'prepare', 'in', '--out', 'cut', ...words).status, 0)
  assert.ok(TokenDataset.open(join(folder, 'cut', 'train')).documentCount > 30)
})

test('bad input gets one sentence and leaves nothing that looks finished', () => {
  mkdirSync(join(folder, 'blank'))
  writeFileSync(join(folder, 'blank', 'x.txt'), ' \n')
  const sentences: [string[], RegExp][] = [
    [['in', '--out', 'x1'], /either --tokenizer, .* or --train-tokenizer/],
    [
      ['in', '--out', 'x1', '--tokenizer', 'data', '--train-tokenizer', '400'],
      /either --tokenizer, .* or --train-tokenizer/,
    ],
    [['nowhere', '--out', 'x1', '--tokenizer', 'data'], /nowhere/],
    [['blank', '--out', 'x1', '--tokenizer', 'data'], /no document of .* can be used; dropped: 1 empty/],
    [
      ['in', '--out', 'x1', '--tokenizer', 'data', '--validation-documents', 'nope.txt'],
      /not among the sources, first: nope\.txt/,
    ],
    [['in', '--out', 'x1', '--tokenizer', 'in'], /expected a tokenizer\.json in this folder/],
  ]
  for (const [words, sentence] of sentences) {
    const { status, stderr } = run('data', 'prepare', ...words)
    assert.notEqual(status, 0, words.join(' '))
    assert.match(stderr, sentence)
    assert.doesNotMatch(stderr, /\n\s+at /)
  }
  const left = existsSync(join(folder, 'x1')) ? readdirSync(join(folder, 'x1'), { recursive: true }) : []
  assert.deepEqual(
    left.filter((name) => String(name).endsWith('.json')),
    [],
  )
})
