// Options of one kind of device given with the other: refused in one sentence, because they would do nothing.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { trainyard } from './program.ts'

function refusal(...words: string[]): string {
  const { status, stdout, stderr } = trainyard(['generate', 'nowhere', ...words])
  assert.equal(status, 2, stdout)
  assert.equal(stderr.trim().split('\n').length, 1, stderr)
  return stderr
}

test("a card's options with --device cpu", () => {
  assert.match(
    refusal('--precision', 'f16'),
    /precision: f16 is for --device cuda, got it with --device cpu: leave it out; matmulPrecision/,
  )
  assert.match(refusal('--attention', 'own'), /attention: own is for --device cuda/)
  assert.match(refusal('--no-deterministic'), /deterministic: false is for --device cuda/)
})

test("a processor's options with --device cuda, before a card is looked for", () => {
  assert.match(
    refusal('--device', 'cuda', '--threads', '2'),
    /threads: 2 is for --device cpu, got it with --device cuda/,
  )
  assert.match(refusal('--device', 'cuda:1', '--matmul-precision', 'bf16'), /matmulPrecision: bf16 is for --device cpu/)
})

test('verify resume takes the same care', () => {
  const { status, stderr } = trainyard(['verify', 'resume', '--data', 'nowhere', '--precision', 'f32'])
  assert.equal(status, 2)
  assert.match(stderr, /precision: f32 is for --device cuda/)
})
