// `plan layout` as a user runs it: text, JSON, the picture, and refusals in one sentence.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { emptyFolder, trainyard } from '../cli/program.ts'

test('plan layout says the best layout, why, and what the run takes', () => {
  const { status, stdout, stderr } = trainyard(['plan', 'layout', 'llama-3-8b', '--devices', '64'])
  assert.equal(status, 0, stderr)
  for (const part of [
    /best: tensor \d/,
    /MFU \d/,
    /one thing different:/,
    /runners-up:/,
    /of the time is progress/,
    /CO2eq/,
  ]) {
    assert.match(stdout, part)
  }
})

test('plan layout writes JSON and a picture of the pipeline, with pins, own links and own prices', () => {
  const folder = emptyFolder()
  const words = [
    '--devices',
    '64',
    '--pipeline',
    '8',
    '--virtual-stages',
    '2',
    '--tensor',
    '4',
    '--svg',
    'step.svg',
    '--json',
  ]
  const more = [
    '--network-bandwidth',
    '100',
    '--embodied',
    '--site',
    'jean-zay',
    '--overlap-tensor',
    '--runners-up',
    '1',
  ]
  const { status, stdout, stderr } = trainyard(['plan', 'layout', 'llama-3-70b', ...words, ...more], {}, folder)
  assert.equal(status, 0, stderr)
  const { best, run, alternatives } = JSON.parse(stdout)
  assert.equal(best.length, 2)
  assert.deepEqual([best[0].layout.pipelineParallel, best[0].layout.chunks, best[0].layout.tensorParallel], [8, 2, 4])
  assert.ok(run.cost.carbon.embodied > 0 && run.goodput.share < 1 && alternatives.length > 0)
  assert.equal(readFileSync(join(folder, 'step.svg'), 'utf8').match(/>rank \d</g)?.length, 8)
})

test('plan layout keeps to --memory-limit of each device', () => {
  const best = (...words: string[]) => {
    const { status, stdout, stderr } = trainyard(['plan', 'layout', 'llama-3-8b', '--json', ...words])
    assert.equal(status, 0, stderr)
    return (JSON.parse(stdout) as { best: { bytes: number; estimate: { seconds: number } }[] }).best[0]!
  }
  const [whole, less] = [best(), best('--memory-limit', '16')]
  assert.ok(whole.bytes > 16 * 2 ** 30 && less.bytes <= 16 * 2 ** 30, `${whole.bytes} and ${less.bytes}`)
  assert.ok(less.estimate.seconds > whole.estimate.seconds)
})

test('plan layout refuses in one sentence', () => {
  const refusals: [string[], RegExp][] = [
    [['llama-3-8b', '--tensor', '7'], /7-way tensor parallel does not divide the 32 heads/],
    [['llama-3-8b', '--tokens', '-1'], /tokens/],
    [['llama-3-8b', '--device', 'h1000'], /did you mean/],
    [['llama-3-405b', '--devices', '8'], /does not fit 8 x H100 SXM/],
    [['llama-3-8b', '--batch-tokens', '1000'], /multiple of seqLen 8192.*try 8192/],
    [['llama-3-8b', '--svg', 'x.svg', '--pipeline', '1'], /no pipeline/],
    [['llama-3-8b', '--svg', 'no/such/folder/x.svg', '--pipeline', '4'], /cannot be written/],
    [['llama-3-8b', '--device', 'v100'], /no products in bf16/],
    [['llama-3-8b', '--mtbf-years', '1e-6'], /nothing becomes progress/],
  ]
  for (const [words, expected] of refusals) {
    const { status, stderr } = trainyard(['plan', 'layout', ...words])
    assert.notEqual(status, 0)
    assert.match(stderr, expected)
    assert.equal(stderr.trim().split('\n').length, 1, stderr)
  }
})

test('plan layout takes own models by depth, and devices whose power nobody knows', () => {
  const { status, stdout, stderr } = trainyard([
    'plan',
    'layout',
    'depth-4',
    '--device',
    'h100 sxm 1g.10gb',
    '--devices',
    '1',
  ])
  assert.equal(status, 0, stderr)
  assert.match(stdout, /^depth 4 on 1 x H100 SXM MIG 1g\.10gb/)
  assert.match(stdout, /device-hours; the power of H100 SXM MIG 1g\.10gb is not known/)
})
