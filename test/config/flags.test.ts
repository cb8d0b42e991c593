// Command-line arguments into values: every spelling that is taken, and a sentence for each that is not.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { configure, flags } from './sample.ts'

const TAKEN: readonly [argv: string[], values: Record<string, unknown>][] = [
  [[], {}],
  [['--lr', '0.1'], { lr: 0.1 }],
  [['--lr=0.1'], { lr: 0.1 }],
  [['--lr', '1_000e-3'], { lr: 1 }],
  [['--microBatchSize', '8'], { microBatchSize: 8 }],
  [['--micro-batch-size', '8'], { microBatchSize: 8 }],
  [['--micro-batch-size=8'], { microBatchSize: 8 }],
  [['--model.hiddenSize', '256'], { model: { hiddenSize: 256 } }],
  [
    ['--model.hidden-size=256', '--no-model.tie-word-embeddings'],
    { model: { hiddenSize: 256, tieWordEmbeddings: false } },
  ],
  [['--resume'], { resume: true }],
  [['--resume', 'false'], { resume: false }],
  [['--resume=true', 'a.txt'], { resume: true, files: ['a.txt'] }],
  [['--resume', 'a.txt'], { resume: true, files: ['a.txt'] }],
  [['--no-shuffle'], { shuffle: false }],
  [['--no-shuffle', 'true'], { shuffle: false, files: ['true'] }],
  [['--betas', '0.8,0.9'], { betas: [0.8, 0.9] }],
  [['--betas', '0.8', '--betas', '0.9'], { betas: [0.8, 0.9] }],
  [['--betas='], { betas: [] }],
  [['a.txt', 'b,c.txt'], { files: ['a.txt', 'b,c.txt'] }],
  [['--files', 'a.txt,b.txt', 'c.txt'], { files: ['a.txt', 'b.txt', 'c.txt'] }],
  [['--lr', '0.1', '--', '--odd', '-name'], { lr: 0.1, files: ['--odd', '-name'] }],
  [['--seed', 'random'], { seed: 'random' }],
  [['--seed', '-7'], { seed: -7 }],
  [['--lr', 'fast'], { lr: 'fast' }],
]

for (const [argv, values] of TAKEN) {
  test(`taken: ${argv.join(' ') || '(nothing)'}`, () => assert.deepEqual(flags(...argv).values, values))
}

test('flags of every verb', () => {
  const parsed = flags('--config', 'a.yaml', '--config=b.json', '--print-config', '--debug')
  assert.deepEqual(parsed, { values: {}, configFiles: ['a.yaml', 'b.json'], printConfig: true, help: false })
  assert.equal(flags('-h').help, true)
  assert.equal(flags('--help').help, true)
})

const REFUSED: readonly [argv: string[], sentence: string][] = [
  [['--leraning-rate', '1'], 'unknown option --leraning-rate for sample; did you mean --lr?'],
  [['--learning_rate=1'], 'unknown option --learning_rate for sample; did you mean --lr?'],
  [['--microBatch', '1'], 'unknown option --microBatch for sample; did you mean --micro-batch-size?'],
  [['--hidden-size', '1'], 'unknown option --hidden-size for sample; did you mean --model.hidden-size?'],
  [['--zzzzzz'], 'unknown option --zzzzzz for sample; "trainyard sample --help" lists the options'],
  [['--no-lr'], 'unknown option --no-lr for sample; --lr is not an on/off option, give it a value'],
  [['--model', 'x'], 'sample: --model is a group of options: set one of its keys, such as --model.hidden-size'],
  [['-n', '1'], 'unknown option -n for sample; "trainyard sample --help" lists the options'],
  [['--lr'], 'sample: --lr needs a value, as in --lr <number>'],
  [
    ['--lr', '--resume'],
    'sample: --lr needs a value, as in --lr <number> (for a value that starts with a dash write --lr=--resume)',
  ],
  [['--maxSteps'], 'sample: --maxSteps needs a value, as in --maxSteps <steps>'],
  [['--config'], 'sample: --config needs a value, as in --config <file>'],
  [['--lr', '1', '--lr', '2'], 'sample: --lr was given 2 times (1, 2); give it once'],
  [['--no-shuffle=1'], 'sample: --no-shuffle takes no value, got "1"'],
]

for (const [argv, sentence] of REFUSED) {
  test(`refused: ${argv.join(' ')}`, () => {
    assert.throws(() => flags(...argv), { name: 'ConfigError', message: sentence })
  })
}

test('defaults apply where nothing is said', () => {
  assert.deepEqual(configure('--model.hiddenSize', '128', 'a.txt'), {
    files: ['a.txt'],
    lr: 3e-4,
    microBatchSize: 4,
    packing: 'packed',
    betas: [0.9, 0.95],
    resume: false,
    shuffle: true,
    seed: 42,
    model: { hiddenSize: 128, tieWordEmbeddings: true },
  })
})
