// Trust in what is on disk, through the real program: killed runs end in the same bits, damaged checkpoints are refused by
// name and passed over, and a full disk costs no checkpoint that was there.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { emptyFolder, trainyard } from './program.ts'

const folder = emptyFolder()
const run = (...words: string[]) => trainyard(words, {}, folder)
const pretrain = (out: string, ...more: string[]) =>
  run(
    ...['pretrain', '--data', 'data', '--out', out, '--depth', '1', '--seq-len', '32', '--batch-tokens', '256'],
    ...['--micro-batch-size', '4', '--eval-every-steps', '0', '--threads', '1', ...more],
  )

before(() => {
  mkdirSync(join(folder, 'in'))
  for (let i = 0; i < 20; i++) {
    writeFileSync(join(folder, 'in', `${i}.txt`), `Text ${i} counts ${'to some number, '.repeat(30 + i)}and stops.`)
  }
  const { status, stderr } = run('data', 'prepare', 'in', '--out', 'data', '--train-tokenizer', '300')
  assert.equal(status, 0, stderr)
  assert.equal(pretrain('whole', '--max-steps', '4', '--save-every-steps', '2').status, 0)
})

test('verify resume: killed again and again, the run ends in the same bits', () => {
  const words = ['--data', 'data', '--kills', '4', '--max-steps', '12', '--depth', '1', '--threads', '1']
  const { status, stdout, stderr } = run('verify', 'resume', ...words)
  assert.equal(status, 0, stderr)
  assert.match(stdout, /4 kills, \d of them while .*; \d runs? ended in the bits of the undisturbed one/)
})

test('verify checkpoint: a whole run, ten flipped bits, ten cut files', () => {
  assert.match(run('verify', 'checkpoint', 'whole').stdout, /step 2: whole\nstep 4: whole\n.* go on from step 4/)
  const checkpoint = join(folder, 'whole', 'checkpoints', 'step-4')
  const files = readdirSync(checkpoint, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  for (let i = 0; i < 20; i++) {
    const file = files[(7 * i) % files.length]!
    const name = join(file.parentPath.slice(checkpoint.length + 1), file.name)
    rmSync(join(folder, 'hurt'), { recursive: true, force: true })
    cpSync(join(folder, 'whole'), join(folder, 'hurt'), { recursive: true })
    const path = join(folder, 'hurt', 'checkpoints', 'step-4', name)
    const bytes = readFileSync(path)
    const at = (977 * i + 13) % bytes.length
    if (i < 10) {
      bytes[at]! ^= 1 << (i % 8)
      writeFileSync(path, bytes)
    } else truncateSync(path, at)
    const { status, stdout, stderr } = run('verify', 'checkpoint', 'hurt')
    assert.equal(status, 1, `${name} ${at}`)
    assert.match(stdout, /step 2: whole\nstep 4: cannot be used: .*\n.* go on from step 2/)
    assert.ok(stdout.includes(file.name), stdout)
    assert.match(stderr, /1 of 2 checkpoints of hurt cannot be used/)
  }
  const resumed = pretrain('hurt', '--max-steps', '4', '--save-every-steps', '2', '--resume')
  assert.equal(resumed.status, 0, resumed.stderr)
  assert.match(resumed.stderr, /checkpoint of step 4 is passed over/)
  assert.match(resumed.stdout, /going on from step 2/)
  const weights = (name: string): Buffer =>
    readFileSync(join(folder, name, 'checkpoints', 'step-4', 'model.safetensors'))
  assert.ok(weights('hurt').equals(weights('whole')))
})

test('a disk that fills up loses nothing that was there', (t) => {
  const small = join(folder, 'small')
  mkdirSync(small)
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', small]).status !== 0) {
    return t.skip('a small disk cannot be mounted here')
  }
  after(() => spawnSync('umount', [small]))
  const words = ['--max-steps', '6', '--save-every-steps', '2']
  const first = pretrain('small/run', ...words, '--stop-after-step', '2')
  assert.equal(first.status, 0, first.stderr)
  const room = Number(spawnSync('df', ['--output=avail', '-B1', small], { encoding: 'utf8' }).stdout.split('\n')[1])
  writeFileSync(join(small, 'filler'), Buffer.alloc(room - 100_000))
  const second = pretrain('small/run', ...words, '--resume')
  assert.equal(second.status, 1, second.stdout)
  assert.match(second.stderr, /checkpoint of step \d could not be written to .* make room there/)
  assert.doesNotMatch(second.stderr, /\n\s+at /)
  assert.match(run('verify', 'checkpoint', 'small/run').stdout, /step 2: whole\n.* go on from step 2/)
})
