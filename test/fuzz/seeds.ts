// Good small files of every kind that a reader takes, made by the project's own writers: what the campaign damages.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { hfFolderFiles, hfTensors } from '../../src/checkpoint/hf.ts'
import { createModel, type HfConfig } from '../../src/checkpoint/hf-config.ts'
import { writeLlama2c } from '../../src/checkpoint/llama2c.ts'
import { llama2cTokenizerFiles } from '../../src/checkpoint/llama2c-tokenizer.ts'
import { saveRunCheckpoint } from '../../src/checkpoint/run-checkpoint.ts'
import { tensorSource } from '../../src/checkpoint/safetensors-writer.ts'
import { WeightsFolder, writeWeightsFolder } from '../../src/checkpoint/weights-folder.ts'
import { TokenDataset } from '../../src/data/dataset.ts'
import { DataLoader } from '../../src/data/loader.ts'
import { ShardWriter } from '../../src/data/shards.ts'
import { tokenizerFiles } from '../../src/data/tokenizer/load.ts'
import { writeTiktoken } from '../../src/data/tokenizer/tiktoken.ts'
import type { Tokenizer } from '../../src/data/tokenizer/tokenizer.ts'
import { trainTokenizer } from '../../src/data/tokenizer/train.ts'
import type { Gpt2Config } from '../../src/models/gpt2.ts'
import type { LlamaConfig } from '../../src/models/llama.ts'
import { materialize } from '../../src/nn/module.ts'
import { adamw } from '../../src/optim/adam.ts'
import { Optimizer } from '../../src/optim/optimizer.ts'
import { HostMemory } from '../checkpoint/host-memory.ts'
import { fixedWeights } from '../interop/fixed-weights.ts'

/** Files by their path in a folder. */
export type FileSet = ReadonlyMap<string, Buffer>

export const TEXT =
  "It was the best of times, it was the worst of times; 1859 or 2024, who's to say?\n\nCaf\u00e9 na\u00efve \u4f60\u597d \ud83d\ude80 end.\n"

/** The files of a folder, all levels. */
export function readFolder(folder: string): Map<string, Buffer> {
  const files = new Map<string, Buffer>()
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath, entry.name)
    files.set(path.slice(folder.length + 1), readFileSync(path))
  }
  return files
}

/** Writes files below a folder. */
export function writeFolder(folder: string, files: FileSet): void {
  for (const [name, bytes] of files) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), bytes)
  }
}

/** What `make` writes into a folder, as a set. */
async function filesOf(make: (folder: string) => void | Promise<void>): Promise<Map<string, Buffer>> {
  const folder = mkdtempSync(join(tmpdir(), 'trainyard-fuzz-seed-'))
  try {
    await make(folder)
    return readFolder(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

export const LLAMA: LlamaConfig = {
  modelType: 'llama',
  vocabSize: 264,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  numKeyValueHeads: 1,
  headDim: 8,
  maxPositionEmbeddings: 12,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  tieWordEmbeddings: true,
  initializerRange: 0.02,
}

const SCALED: LlamaConfig = {
  ...LLAMA,
  tieWordEmbeddings: false,
  ropeScaling: {
    ropeType: 'llama3',
    factor: 4,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositionEmbeddings: 32,
  },
}

const GPT2: Gpt2Config = {
  modelType: 'gpt2',
  vocabSize: 264,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  maxPositionEmbeddings: 12,
  layerNormEps: 1e-5,
  activationFunction: 'gelu_new',
  initializerRange: 0.02,
}

/** 256 bytes, some merges, an end-of-text token. */
export function smallTokenizer(): Tokenizer {
  return trainTokenizer([TEXT.repeat(3)], { vocabSize: 264 })
}

/** A Hugging Face folder; `maxShardBytes` cuts its weights. */
function modelFolder(config: HfConfig, maxShardBytes?: number): Promise<Map<string, Buffer>> {
  return filesOf(async (folder) => {
    const sources = hfTensors(createModel(config)).map(({ name, view }) =>
      tensorSource(name, 'f32', view.shape, fixedWeights(name, view.size)),
    )
    await writeWeightsFolder(folder, sources, maxShardBytes === undefined ? {} : { maxShardBytes })
    const files = hfFolderFiles(config, tokenizerFiles(smallTokenizer()), 'f32')
    for (const [name, contents] of Object.entries(files)) writeFileSync(join(folder, name), contents)
  })
}

/** llama2.c's tokenizer format: the control tokens, the bytes, pieces that merge. */
function llama2cTokenizer(vocabSize: number): Buffer {
  const pieces = ['<unk>', '\n<s>\n', '\n</s>\n']
  for (let byte = 0; byte < 256; byte++) pieces.push(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
  pieces.push(' ', 't', 'h', 'th', ' th')
  const parts = [Buffer.from(Int32Array.of(8).buffer)]
  for (const [id, piece] of pieces.slice(0, vocabSize).entries()) {
    const text = Buffer.from(piece)
    const head = Buffer.alloc(8)
    head.writeFloatLE(-id, 0)
    head.writeInt32LE(text.length, 4)
    parts.push(head, text)
  }
  return Buffer.concat(parts)
}

/** `model.bin` and `tokenizer.bin` of llama2.c. */
function llama2cFiles(): Promise<Map<string, Buffer>> {
  return filesOf(async (folder) => {
    const weights = join(folder, 'weights')
    await writeWeightsFolder(
      weights,
      hfTensors(createModel(LLAMA)).map(({ name, view }) =>
        tensorSource(name, 'f32', view.shape, fixedWeights(name, view.size)),
      ),
    )
    using open = new WeightsFolder(weights)
    await writeLlama2c(join(folder, 'model.bin'), LLAMA, open)
    rmSync(weights, { recursive: true })
    writeFileSync(join(folder, 'tokenizer.bin'), llama2cTokenizer(LLAMA.vocabSize))
  })
}

/** The tokenizer of llama2.c as Hugging Face files: BPE with byte fallback. */
function fallbackTokenizer(): Promise<Map<string, Buffer>> {
  return filesOf((folder) => {
    const path = join(folder, 'tokenizer.bin')
    writeFileSync(path, llama2cTokenizer(264))
    const files = llama2cTokenizerFiles(path, 264, 12)
    for (const [name, contents] of Object.entries(files)) writeFileSync(join(folder, name), contents)
    rmSync(path)
  })
}

/** A token dataset of 12 documents in several shards. */
function dataset(): Promise<Map<string, Buffer>> {
  return filesOf((folder) => {
    const { hash, vocabSize } = smallTokenizer()
    const writer = new ShardWriter(folder, {
      split: 'train',
      tokenizer: { hash, vocabSize },
      eosTokenId: vocabSize - 1,
      maxTokensPerShard: 60,
    })
    for (let d = 0; d < 12; d++) {
      const length = 2 + ((d * 7) % 19)
      writer.add([...Array.from({ length }, (_, i) => (d * 31 + i * i) % 260), vocabSize - 1], 2 * length)
    }
    writer.finish({
      sources: [{ name: 'made up', documents: 12, textBytes: 240, tokens: 130 }],
      dropped: { empty: 1 },
      replacedBytes: 0,
      dropExamples: [{ reason: 'empty', source: 'a.txt', line: 3, detail: 'no text' }],
    })
  })
}

/** A run with checkpoints of two steps, and the data that it trained on under `data/`. */
function runFolder(data: FileSet): Promise<Map<string, Buffer>> {
  return filesOf(async (folder) => {
    writeFolder(join(folder, 'data'), data)
    const loader = new DataLoader(TokenDataset.open(join(folder, 'data'), { useMmap: false }), {
      mode: 'packed',
      seqLen: 8,
      rowsPerStep: 2,
      seed: 1,
    })
    const config = { ...LLAMA, numHiddenLayers: 1 }
    for (const step of [1, 2]) {
      const model = createModel(config)
      const device = new HostMemory()
      const optimizer = new Optimizer(materialize(model, device), adamw(ADAM))
      for (const { name, view } of hfTensors(model)) device.write(view, fixedWeights(`${step}.${name}`, view.size))
      const checkpoint = {
        model,
        config,
        tokenizerFiles: tokenizerFiles(smallTokenizer()),
        optimizer,
        trainer: {
          step,
          seed: 1,
          data: loader.describeState(step),
          schedule: { kind: 'cosine' as const, lr: 1e-3, maxSteps: 10 },
          numerics: { isa: 'base', threads: 2 },
          configHash: 'x'.repeat(64),
        },
      }
      await saveRunCheckpoint(folder, checkpoint, { heldOut: { loss: 5 - step, tokens: 100 } })
    }
  })
}

export const ADAM = { weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8 }

const YAML = `# a run
depth: 2
model:
  family: llama      # or gpt2
  tieWordEmbeddings: true
seqLen: 64
batchTokens: 1024
lr: 3e-4
optimizer: adamw
gradClip: 1.0
packing: packed
dropout: 0.1
`

/** Options files of several verbs; the name tells the verb. */
function configFiles(): Map<string, Buffer> {
  const json = (value: object): Buffer => Buffer.from(JSON.stringify(value, null, 2))
  return new Map([
    ['pretrain.yaml', Buffer.from(YAML)],
    ['pretrain.json', json({ depth: 2, model: { family: 'gpt2', hiddenSize: 64 }, seqLen: 64, lr: 1e-3, beta1: 0.9 })],
    [
      'generate.yaml',
      Buffer.from('prompt: "The people"\nmaxNewTokens: 5\nstop: [".", \'!\']\ntemperature: 0.8\nnumSamples: 2\n'),
    ],
    [
      'prepare.json',
      json({ paths: ['a.txt', 'b.jsonl'], trainTokenizer: 300, validationFraction: 0.1, split: 'lines' }),
    ],
  ])
}

const JSONL = `${[
  { text: TEXT, id: 1 },
  { text: 'two', meta: { tags: ['a', 'b'] } },
  { text: '\u4f60\u597d' },
  { text: '', id: 4 },
  { other: 'no text' },
  { text: 'the last of them' },
]
  .map((row) => JSON.stringify(row))
  .join('\n')}\n`

/** Text and JSON lines, plain and compressed. */
function textFiles(): Map<string, Buffer> {
  return new Map([
    ['a.txt', Buffer.from(TEXT.repeat(4))],
    ['b.jsonl', Buffer.from(JSONL)],
    ['c.txt.gz', gzipSync(TEXT.repeat(20))],
    ['d.jsonl.zst', Buffer.concat([zstdCompressSync(JSONL), zstdCompressSync(JSONL)])],
  ])
}

/** Everything above, by kind. */
export interface Seeds {
  readonly configs: FileSet
  readonly llama: FileSet
  /** With its weights in shards and scaled rotary frequencies. */
  readonly sharded: FileSet
  readonly gpt2: FileSet
  readonly llama2c: FileSet
  readonly bytesTokenizer: FileSet
  readonly fallbackTokenizer: FileSet
  readonly tiktoken: FileSet
  readonly dataset: FileSet
  readonly texts: FileSet
  readonly run: FileSet
}

export async function makeSeeds(): Promise<Seeds> {
  const tokenizer = smallTokenizer()
  const bytesTokenizer = new Map(
    Object.entries(tokenizerFiles(tokenizer)).map(([name, text]): [string, Buffer] => [name, Buffer.from(text)]),
  )
  bytesTokenizer.set(
    'special_tokens_map.json',
    Buffer.from('{"eos_token":{"content":"<|endoftext|>"},"bos_token":null}'),
  )
  const data = await dataset()
  return {
    configs: configFiles(),
    llama: await modelFolder(LLAMA),
    sharded: await modelFolder(SCALED, 8_000),
    gpt2: await modelFolder(GPT2),
    llama2c: await llama2cFiles(),
    bytesTokenizer,
    fallbackTokenizer: await fallbackTokenizer(),
    tiktoken: new Map([['cl100k_base.tiktoken', Buffer.from(writeTiktoken(tokenizer))]]),
    dataset: data,
    texts: textFiles(),
    run: await runFolder(data),
  }
}
