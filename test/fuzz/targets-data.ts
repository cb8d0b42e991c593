// Targets of the campaign in src/config and src/data: options files, texts, tokenizers, token datasets.
import assert from 'node:assert/strict'
import { statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { readConfigFile, resolveConfig } from '../../src/config/resolve.ts'
import { TokenDataset } from '../../src/data/dataset.ts'
import { ReadReport } from '../../src/data/document.ts'
import { EvalLoader } from '../../src/data/eval-loader.ts'
import { DataLoader } from '../../src/data/loader.ts'
import { contentHashOf, type Manifest } from '../../src/data/manifest.ts'
import { type ReadOptions, readDocuments } from '../../src/data/readers.ts'
import { loadTokenizer, tokenizerFiles } from '../../src/data/tokenizer/load.ts'
import dataPrepare from '../../src/recipes/data-prepare.ts'
import generateRecipe from '../../src/recipes/generate.ts'
import pretrain from '../../src/recipes/pretrain.ts'
import type { FuzzRandom } from './fuzz-random.ts'
import { faultOfSentence } from './judge.ts'
import { mutateInPlace } from './mutate-bytes.ts'
import { type FileSet, type Seeds, TEXT } from './seeds.ts'
import { type Changes, type FuzzTarget, mutateFiles } from './target.ts'

export const YAML_WORDS = [
  '&a ',
  '*a',
  ' *nobody ',
  '&a [*a, *a]',
  'x: &x [1,1,1,1,1,1,1,1,1]\ny: &y [*x,*x,*x,*x,*x,*x,*x,*x]\nz: &z [*y,*y,*y,*y,*y,*y,*y,*y]\nw: [*z,*z,*z,*z,*z,*z,*z,*z]\n',
  '? [a]\n: b\n',
  '<<: *a\n',
  '<<: {depth: 3}\n',
  '!!binary ',
  '!!js/function "x"',
  '!!set {a, b}',
  '!!timestamp 2001-12-14',
  '---\n',
  '...\n',
  '%YAML 1.1\n---\n',
  '|\n  ',
  ': ',
  '- ',
  '\t',
  '~',
  '__proto__: {depth: 1}\n',
  'model: 5\n',
  'model.hiddenSize: 64\n',
  `depth: ${'['.repeat(3000)}${']'.repeat(3000)}\n`,
  `${'{a: '.repeat(2000)}1${'}'.repeat(2000)}\n`,
  `${'- '.repeat(5000)}x\n`,
  `lr: ${'9'.repeat(400)}\n`,
  `stop: ["${'long '.repeat(400)}", 5]\n`,
]

const VERBS = [
  { prefix: 'pretrain', recipe: pretrain, flags: { data: 'data', out: 'out' } },
  { prefix: 'generate', recipe: generateRecipe, flags: { model: 'model' } },
  { prefix: 'prepare', recipe: dataPrepare, flags: { out: 'out' } },
] as const

function configTargets(files: FileSet): FuzzTarget[] {
  return [...files.keys()].map((name): FuzzTarget => {
    const { recipe, flags } = VERBS.find(({ prefix }) => name.startsWith(prefix))!
    const keys = recipe.fields.map(({ key }) => key.split('.')[0]!)
    return {
      name: `config ${name}`,
      weight: 2,
      files: new Map([[name, files.get(name)!]]),
      mutate: (random) => mutateFiles(new Map([[name, files.get(name)!]]), random, { words: YAML_WORDS }),
      read(folder) {
        const layer = readConfigFile(join(folder, name), folder)
        const config = resolveConfig(recipe.name, recipe.config, [layer, { source: 'flags', values: { ...flags } }])
        assert.equal(typeof JSON.stringify(config), 'string')
      },
      names: new RegExp(`\\b(${[...new Set(keys)].join('|')})\\b`),
      isMultiline: true,
    }
  })
}

const SPLITS: readonly ReadOptions[] = [
  {},
  { split: 'lines' },
  { split: 'blank-lines' },
  { split: 'separator', separator: 'the' },
  { format: 'jsonl' },
  { format: 'text', split: 'lines', maxDocumentBytes: 40 },
  { format: 'jsonl', field: '__proto__' },
]

function textTarget(files: FileSet): FuzzTarget {
  return {
    name: 'text and JSON lines',
    weight: 6,
    files,
    mutate: (random) => mutateFiles(files, random, { words: ['{"text":', '{"text":5}\n', '\ufeff', '\n\n', '[]\n'] }),
    async read(folder, random) {
      const report = new ReadReport()
      for await (const { text } of readDocuments([folder], random.pick(SPLITS), report)) {
        assert.ok(text.isWellFormed(), 'a document with half a surrogate pair')
      }
      const told = report.describeDropped()
      const fault = told === '' ? undefined : faultOfSentence(`dropped: ${told}`)
      if (fault !== undefined && !fault.startsWith('a message of')) throw new Error(`${fault}: ${JSON.stringify(told)}`)
    },
  }
}

const TOKENIZER_WORDS = [
  '\u2581',
  '"__proto__": 7,',
  '{"type":"ByteLevel"}',
  '"merges": [],',
  '"normalizer": {"type":"NFC"},',
  '1e9',
  '\n9999999 ',
  'AAAA 5\n',
  'IQ== 0\n',
]

function tokenizerTargets({ bytesTokenizer, fallbackTokenizer, tiktoken }: Seeds): FuzzTarget[] {
  const target = (name: string, weight: number, files: FileSet): FuzzTarget => ({
    name,
    weight,
    files,
    mutate: (random) => mutateFiles(files, random, { words: TOKENIZER_WORDS }),
    read(folder, random) {
      const tokenizer = loadTokenizer(folder)
      const ids = tokenizer.encode(random.chance(0.1) ? 'the '.repeat(5000) : TEXT, { addSpecialTokens: true })
      assert.ok(ids.every((id) => Number.isInteger(id) && id >= 0 && id < tokenizer.vocabSize))
      tokenizer.decode(ids)
      assert.match(tokenizer.hash, /^[0-9a-f]{64}$/)
      tokenizerFiles(tokenizer)
    },
  })
  return [
    target('tokenizer.json of bytes', 5, bytesTokenizer),
    target('tokenizer.json with byte fallback', 4, fallbackTokenizer),
    target('tiktoken ranks', 3, tiktoken),
  ]
}

/** Damages the files of a dataset; then the manifest's hashes may be made to agree, as an attacker would. */
export function mutateDataset(files: FileSet, random: FuzzRandom): Changes {
  const changes = mutateFiles(files, random)
  if (random.chance(0.6)) {
    changes.clear()
    const name = random.pick([...files.keys()].filter((key) => key.endsWith('.bin')))
    changes.set(name, mutateInPlace(files.get(name)!, random))
  }
  const manifest = changes.get('manifest.json') ?? files.get('manifest.json')!
  if (random.chance(0.5)) {
    try {
      const value = JSON.parse(manifest.toString('utf8')) as Manifest
      changes.set('manifest.json', Buffer.from(JSON.stringify({ ...value, contentHash: contentHashOf(value) })))
    } catch {
      // Too damaged to be hashed: it stays as it is.
    }
  }
  return changes
}

/** Everything that training and validation read. */
async function useDataset(dataset: TokenDataset): Promise<void> {
  const loaders = (['packed', 'windows'] as const).map(
    (mode) => new DataLoader(dataset, { mode, seqLen: 8, rowsPerStep: 4, seed: 3 }),
  )
  const { vocabSize } = dataset.manifest.tokenizer
  for (const loader of loaders) {
    for (let step = 0; step < 6; step++) {
      const { tokens, targets } = loader.step(step).microBatch(0, 4)
      assert.ok(tokens.every((id) => id >= 0 && id < vocabSize) && targets.every((id) => id >= -1 && id < vocabSize))
    }
  }
  const evalLoader = new EvalLoader(dataset, { seqLen: 8, stride: 4 })
  for (let i = 0; i < evalLoader.batchCount(4); i++) {
    const { tokens, targets } = evalLoader.batch(i, 4)
    assert.ok(tokens.every((id) => id >= 0 && id < vocabSize) && targets.every((id) => id >= -1 && id < vocabSize))
  }
}

function datasetTargets(files: FileSet): FuzzTarget[] {
  return [
    {
      name: 'token dataset',
      weight: 6,
      files,
      mutate: (random) => mutateDataset(files, random),
      async read(folder, random) {
        const dataset = TokenDataset.open(folder, { useMmap: random.chance(0.5) })
        await useDataset(dataset)
        if (random.chance(0.3)) await dataset.verify()
      },
    },
    {
      name: 'shard that shrinks while mapped',
      weight: 1,
      files: largeShards(files),
      mutate: () => new Map(),
      changesFiles: true,
      async read(folder, random) {
        const dataset = TokenDataset.open(folder)
        for (let i = random.below(4); i > 0; i--) dataset.documentTokens(random.below(dataset.documentCount))
        const name = random.pick(SHARD_FILES)
        const path = join(folder, name)
        truncateSync(path, random.below(statSync(path).size))
        if (random.chance(0.5)) await useDataset(dataset)
        else for (let i = 0; i < dataset.documentCount; i++) dataset.documentTokens(i).slice()
        if (name === TOKENS_FILE) throw new Error('a shard that was cut off while in use is read as if it were whole')
      },
    },
  ]
}

const TOKENS_FILE = 'tokens-00000.bin'
const DOCUMENTS_FILE = 'documents-00000.bin'
const SHARD_FILES = [TOKENS_FILE, TOKENS_FILE, TOKENS_FILE, DOCUMENTS_FILE]

/** A dataset over many pages: only a touch beyond the last page of a shortened file is deadly. */
function largeShards(files: FileSet): FileSet {
  const manifest = JSON.parse(files.get('manifest.json')!.toString('utf8')) as Manifest
  const [documents, length] = [1000, 40]
  const tokens = Buffer.alloc(documents * length * 2)
  for (let i = 0; i < documents * length; i++) tokens.writeUInt16LE(i % 250, 2 * i)
  const index = Buffer.alloc(16 * (documents + 1))
  for (let d = 0; d <= documents; d++) {
    index.writeBigUInt64LE(BigInt(d * length), 16 * d)
    index.writeBigUInt64LE(BigInt(3 * d), 16 * d + 8)
  }
  const shard = { ...manifest.shards[0]!, tokens: documents * length, documents }
  const whole = { ...manifest, shards: [shard], totalTokens: shard.tokens, totalDocuments: documents }
  return new Map([
    ['manifest.json', Buffer.from(JSON.stringify({ ...whole, contentHash: contentHashOf(whole) }))],
    [TOKENS_FILE, tokens],
    [DOCUMENTS_FILE, index],
  ])
}

export function dataTargets(seeds: Seeds): FuzzTarget[] {
  return [
    ...configTargets(seeds.configs),
    textTarget(seeds.texts),
    ...tokenizerTargets(seeds),
    ...datasetTargets(seeds.dataset),
  ]
}
