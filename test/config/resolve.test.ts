// Files under flags under defaults, and what is said about values that are wrong.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { field } from '../../src/config/field.ts'
import { readConfigFile, resolveConfig } from '../../src/config/resolve.ts'
import { tempTree } from '../tools/temp-tree.ts'
import { configure, flags, sample } from './sample.ts'

test('flags win over files, a later file over an earlier one, groups are merged', () => {
  using tree = tempTree({
    'base.yaml': '# a comment\nlr: 1.0e-3\nbetas: [0.8, 0.99]\nmodel:\n  hiddenSize: 256\n',
    'more.json': '{ "microBatchSize": 8, "model": { "tieWordEmbeddings": false } }',
  })
  const layers = ['base.yaml', 'more.json'].map((file) => readConfigFile(file, tree.root))
  const config = resolveConfig('sample', sample.config, [
    ...layers,
    { source: 'flags', values: flags('--micro-batch-size=2').values },
  ])
  assert.equal(config.lr, 1e-3)
  assert.deepEqual(config.betas, [0.8, 0.99])
  assert.equal(config.microBatchSize, 2)
  assert.deepEqual(config.model, { hiddenSize: 256, tieWordEmbeddings: false })
})

test('what --printConfig prints is a file that gives the same configuration', () => {
  const config = configure('--lr', '0.5', '--maxSteps', '3', '--model.hiddenSize', '96')
  using tree = tempTree({ 'printed.json': JSON.stringify(config, null, 2) })
  assert.deepEqual(resolveConfig('sample', sample.config, [readConfigFile('printed.json', tree.root)]), config)
})

const BAD_FILES: readonly [text: string, sentence: RegExp | string][] = [
  ['learning-rate: 1', 'run.yaml: unknown key learning-rate for sample; did you mean lr?'],
  ['model:\n  hidenSize: 1', 'run.yaml: unknown key model.hidenSize for sample; did you mean model.hiddenSize?'],
  ['qqqqqqq: 1', 'run.yaml: unknown key qqqqqqq for sample; "trainyard sample --help" lists the options'],
  ['model: big', 'run.yaml: model must be a mapping, got "big"'],
  ['- 1', 'run.yaml: expected a mapping such as "lr: 3e-4", got [1]'],
  ['lr: [1', /^run\.yaml: not valid YAML: .*line 1/],
  ['lr: fast', 'run.yaml: lr must be a number, above 0, got "fast"; for example --lr 0.0003'],
  ['lr: 1\nlr: 2', /^run\.yaml: not valid YAML: Map keys must be unique/],
]

for (const [text, message] of BAD_FILES) {
  test(`a file is refused: ${JSON.stringify(text)}`, () => {
    using tree = tempTree({ 'run.yaml': text })
    assert.throws(() => resolveConfig('sample', sample.config, [readConfigFile('run.yaml', tree.root)]), {
      name: 'ConfigError',
      message,
    })
  })
}

test('a file that is not there is named', () => {
  assert.throws(() => readConfigFile('none.yaml', '/'), {
    name: 'ConfigError',
    message: /^--config none\.yaml: the file could not be read \(ENOENT/,
  })
})

const BAD_VALUES: readonly [argv: string[], sentence: string][] = [
  [['--lr', 'fast'], 'sample: --lr must be a number, above 0, got "fast"; for example --lr 0.0003'],
  [['--lr=-1'], 'sample: --lr must be a number, above 0, got -1; for example --lr 0.0003'],
  [
    ['--microBatchSize', '2.5'],
    'sample: --micro-batch-size must be a whole number from 1 to 64, got 2.5; for example --micro-batch-size 4',
  ],
  [
    ['--maxSteps', '0'],
    'sample: --max-steps must be a whole number, at least 1 (steps), got 0; for example --max-steps 500',
  ],
  [
    ['--packing', 'loose'],
    'sample: --packing must be one of packed, windows, got "loose"; for example --packing packed',
  ],
  [['--resume=maybe'], 'sample: --resume must be true or false, got "maybe"; for example --resume false'],
  [['--betas', '0.9,x'], 'sample: --betas must be a list, each a number, got [0.9,"x"]; for example --betas 0.9,0.95'],
  [['--limit', '10'], 'sample: --limit must be a time such as 10m, got "10"; for example --limit 2h'],
  [['--seed', 'x'], 'sample: --seed must be a whole number or "random", got "x"; for example --seed 42'],
  [
    ['--model.hiddenSize', 'x'],
    'sample: --model.hidden-size must be a whole number, at least 1 (channels), got "x"; for example --model.hidden-size 64',
  ],
]

for (const [argv, message] of BAD_VALUES) {
  test(`a value is refused: ${argv.join(' ')}`, () => {
    assert.throws(() => configure(...argv), { name: 'ConfigError', message })
  })
}

test('every wrong value has a line of its own, and a missing one says what it is', () => {
  const config = z.object({
    data: field(z.string().min(1), { describe: 'folder with shards', example: 'data/books' }),
    lr: field(z.number().default(1), { describe: 'rate' }),
  })
  assert.throws(() => resolveConfig('train', config, [{ source: 'flags', values: { lr: 'x' } }]), {
    message: [
      'train needs --data, folder with shards: text that is not empty; for example --data data/books',
      'train: --lr must be a number, got "x"; for example --lr 1',
    ].join('\n'),
  })
})
