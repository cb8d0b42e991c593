// trainyard tokenizer train, encode, decode and inspect through the real program: any text comes back, ids are those of
// tiktoken, bad input gets a sentence.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { get_encoding } from 'tiktoken'
import { rankFile } from '../tokenizer/oracles.ts'
import { emptyFolder, PROGRAM, trainyard } from './program.ts'

const folder = emptyFolder()
const WEIRD =
  'Plain words, 12345.\r\n\tTabs\u0000 and \u{1F600} \u00e9t\u00e9 \u4f60\u597d <|endoftext|> \ufeffmark  \n\n'
writeFileSync(join(folder, 'a.txt'), 'the cat sat on the mat and the rat sat on the cat\n'.repeat(50))
writeFileSync(join(folder, 'b.jsonl'), `${JSON.stringify({ body: 'the mat sat on the rat' })}\n{broken\n`)
writeFileSync(join(folder, 'weird.txt'), WEIRD)
const run = (...words: string[]) => trainyard(['tokenizer', ...words], {}, folder)
const trained = run('train', 'a.txt', 'b.jsonl', '--field', 'body', '--vocab-size', '300', '--out', 'mine')

test('train says what it made of the text, and what it left out', () => {
  assert.equal(trained.status, 0, trained.stderr)
  assert.match(trained.stdout, /^\d+ tokens from 2 documents, .* bytes per token, in .* written to mine$/m)
  assert.match(trained.stderr, /left out: 1 broken-json \(first: .*b\.jsonl:2/)
})

test('the same text gives the same files', () => {
  run('train', 'a.txt', 'b.jsonl', '--field', 'body', '--vocab-size', '300', '--out', 'again')
  const read = (name: string): string => readFileSync(join(folder, name, 'tokenizer.json'), 'utf8')
  assert.equal(read('again'), read('mine'))
})

test('what is encoded decodes to the same bytes, from a file and through pipes', () => {
  const { stdout: json } = run('encode', 'mine', '--file', 'weird.txt', '--json')
  writeFileSync(join(folder, 'ids.json'), json)
  assert.equal(run('decode', 'mine', '--file', 'ids.json').stdout, WEIRD)
  const piped = (words: string[], input: string): string =>
    spawnSync(process.execPath, [PROGRAM, 'tokenizer', ...words], { cwd: folder, input, encoding: 'utf8' }).stdout
  const ids = piped(['encode', 'mine'], WEIRD)
  assert.deepEqual(ids.trim().split(' ').map(Number), JSON.parse(json))
  assert.equal(piped(['decode', 'mine'], ids), WEIRD)
})

test('a tokenizer that is there stays, unless it is to be replaced', () => {
  const path = join(folder, 'kept', 'tokenizer.json')
  run('train', 'a.txt', '--vocab-size', '280', '--out', 'kept')
  const before = readFileSync(path, 'utf8')
  const words = ['train', 'a.txt', '--vocab-size', '270', '--out', 'kept']
  const refused = run(...words)
  assert.equal(refused.status, 2)
  assert.match(refused.stderr, /kept already holds a tokenizer; .*--overwrite/)
  assert.equal(readFileSync(path, 'utf8'), before)
  assert.equal(run(...words, '--overwrite').status, 0)
  assert.notEqual(readFileSync(path, 'utf8'), before)
})

test('bytes that are no UTF-8 and halves of characters become U+FFFD, and are told', () => {
  // A lone surrogate in JSON's spelling, which the shortest tokenizer must learn from and encode.
  writeFileSync(join(folder, 'half.jsonl'), '{"text": "half \\ud83d of it, half \\ud83d of it"}\n')
  assert.equal(run('train', 'half.jsonl', '--vocab-size', '262', '--out', 'half').status, 0)
  writeFileSync(join(folder, 'bad.txt'), Buffer.from([0x61, 0xff, 0x62, 0xed, 0xa0, 0xbd, 0x63, 0x00]))
  const encoded = run('encode', 'half', '--file', 'bad.txt', '--json')
  assert.match(encoded.stderr, /4 bytes were no UTF-8/)
  writeFileSync(join(folder, 'bad.json'), encoded.stdout)
  assert.equal(run('decode', 'half', '--file', 'bad.json').stdout, 'a\ufffdb\ufffd\ufffd\ufffdc\u0000')
})

test("ids are tiktoken's for GPT-2's rank file, and part of a character decodes to its bytes", () => {
  writeFileSync(join(folder, 'gpt2.tiktoken'), rankFile('gpt2'))
  const theirs = [...get_encoding('gpt2').encode(WEIRD, 'all')]
  const { stdout } = run('encode', 'gpt2.tiktoken', '--file', 'weird.txt', '--json')
  assert.deepEqual(JSON.parse(stdout), theirs)
  const { stdout: bytes } = spawnSync(process.execPath, [PROGRAM, 'tokenizer', 'decode', 'gpt2.tiktoken', '47249'], {
    cwd: folder,
  })
  assert.deepEqual([...bytes], [...get_encoding('gpt2').decode(Uint32Array.of(47249))])
})

test('inspect tells the kind, the special tokens and how a text is cut', () => {
  const { stdout } = run('inspect', 'mine', '--text', 'the cat\n')
  assert.match(stdout, /byte-level BPE/)
  assert.match(stdout, /<\|endoftext\|> \d+/)
  assert.match(stdout, /^the\| cat\|\\n$/m)
  const facts = JSON.parse(run('inspect', 'mine', '--text', 'the cat', '--json').stdout) as Record<string, unknown>
  assert.deepEqual(facts.tokens, ['the', ' cat'])
  assert.equal(facts.kind, 'bytes')
})

test('bad input gets one sentence', () => {
  const sentences: [string[], RegExp][] = [
    [['decode', 'mine', '99999'], /ids must be below \d+ for mine, got 99999/],
    [['decode', 'mine', '--file', 'a.txt'], /expected ids, whole numbers .*, got "the"/],
    [['encode', 'nowhere', '--text', 'x'], /expected a tokenizer, but there is no such file/],
    [['encode', 'mine', '--text', 'x', '--file', 'a.txt'], /--text or --file, not both/],
    [['train', 'nowhere', '--out', 'x'], /nowhere/],
    [['train', 'a.txt', '--vocab-size', '9', '--out', 'x'], /vocabSize|vocab-size/],
  ]
  for (const [words, sentence] of sentences) {
    const { status, stderr } = run(...words)
    assert.notEqual(status, 0, words.join(' '))
    assert.match(stderr, sentence)
    assert.doesNotMatch(stderr, /\n\s+at /)
  }
})
