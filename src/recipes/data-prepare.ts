// trainyard data prepare: text files into token shards, a held-out part beside them, and the tokenizer with both.
import { join, resolve } from 'node:path'
import { z } from 'zod'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { ConfigError, DataError } from '../core/errors.ts'
import { type Document, ReadReport } from '../data/document.ts'
import type { Manifest } from '../data/manifest.ts'
import { holdOut, prepareData, type ValidationChoice } from '../data/prepare.ts'
import { type ReadOptions, readDocuments } from '../data/readers.ts'
import { loadTokenizer } from '../data/tokenizer/load.ts'
import { PieceCounter } from '../data/tokenizer/piece-counter.ts'
import type { Tokenizer } from '../data/tokenizer/tokenizer.ts'
import { trainFromCounts } from '../data/tokenizer/train.ts'
import { formatBytes, formatCount, formatDuration } from '../display/format.ts'
import { table } from '../display/text.ts'
import { ProgressLine } from './progress.ts'
import { describeRate, readOptionsOf, textFields, writeTokenizer } from './text-fields.ts'

const config = z.object({
  paths: field(z.array(z.string().min(1)).min(1), { describe: 'files and folders to read', example: 'books' }),
  out: field(z.string().min(1), { describe: 'folder to write', example: 'data/books' }),
  tokenizer: field(z.string().min(1).optional(), {
    describe: 'tokenizer to encode with: of a folder, a model or a file',
    example: 'tokenizers/books',
  }),
  trainTokenizer: field(z.number().int().min(257).optional(), {
    describe: 'instead of a tokenizer: train one of this size, on the training documents alone',
    unit: 'tokens',
    example: 4096,
  }),
  validationFraction: field(z.number().min(0).lt(1).default(0.05), {
    describe: 'part of the documents that is held out, chosen by a hash of each text; 0 for none',
  }),
  validationDocuments: field(z.array(z.string().min(1)).default([]), {
    describe: 'hold out these documents instead: path, or path:line',
    example: 'books/emma.txt',
  }),
  ...textFields,
  prependBos: field(z.boolean().optional(), {
    describe: 'begin every document with the BOS token; default where the tokenizer has one',
    example: true,
  }),
  appendEos: field(z.boolean().optional(), {
    describe: 'end every document with the end-of-text token; default where the tokenizer has one',
    example: true,
  }),
  maxTokensPerShard: field(z.number().int().min(1).default(100_000_000), {
    describe: 'size of a shard',
    unit: 'tokens',
  }),
  overwrite: field(z.boolean().default(false), { describe: 'replace a dataset that is there' }),
})

export default defineRecipe({
  name: 'data prepare',
  summary: 'turn text into token shards to train on',
  description:
    'Reads text and JSONL files and folders, plain, gzip or Zstandard, as one stream in bounded memory. Writes OUT/train and OUT/validation, each with a manifest that counts what was used and what was left out and why, and the tokenizer, which pretrain puts into every checkpoint. The same input gives the same shards.',
  examples: [
    { command: 'data prepare books --out data/books --train-tokenizer 4096', does: 'with a tokenizer of its own' },
    {
      command: 'data prepare chat.jsonl --field content --tokenizer models/llama --out data/chat',
      does: "for a given model, with that model's tokenizer",
    },
  ],
  config,
  positional: ['paths'],
  async run(options, context) {
    const started = performance.now()
    const { validationFraction: fraction, validationDocuments: documents } = options
    const validation = documents.length > 0 ? { documents } : fraction > 0 ? { fraction } : undefined
    const read = readOptionsOf(options)
    const paths = options.paths.map((path) => resolve(context.cwd, path))
    const tokenizer = await openTokenizer(options, { paths, read, validation }, context)
    if (tokenizer === undefined) return
    const folder = resolve(context.cwd, options.out)
    const line = new ProgressLine(context, 'encoding')
    const encodingStarted = performance.now()
    const prepared = await prepareData({
      sources: paths.map((path) => ({ path, read })),
      tokenizer,
      outDir: folder,
      validation,
      prependBos: options.prependBos ?? tokenizer.bosTokenId !== undefined,
      appendEos: options.appendEos,
      maxTokensPerShard: options.maxTokensPerShard,
      overwrite: options.overwrite,
      signal: context.signal,
      onProgress: (progress) =>
        line.show(() => {
          const { documents, textBytes, tokens } = progress
          return `${formatCount(documents)} documents, ${describeRate(textBytes, encodingStarted)}, ${formatCount(tokens)} tokens`
        }),
      beforeFinish: () => writeTokenizer(tokenizer, join(folder, 'tokenizer')),
    }).catch((error: unknown) => {
      line.stop()
      // An interrupted program ends as such, with its exit code, and not as one that failed.
      if (!context.signal.aborted || !(error instanceof DataError)) throw error
      context.warn(error.message)
      return undefined
    })
    if (prepared === undefined) return
    line.stop()
    const { train, validation: heldOut, report } = prepared
    const rows = [['', 'documents', 'text', 'tokens', 'bytes per token']]
    const row = (name: string, { totalDocuments, totalTextBytes, totalTokens }: Manifest): string[] => [
      name,
      formatCount(totalDocuments),
      formatBytes(totalTextBytes),
      formatCount(totalTokens),
      (totalTextBytes / totalTokens).toFixed(2),
    ]
    rows.push(row('train', train))
    if (heldOut !== undefined) rows.push(row('validation', heldOut))
    for (const text of table(rows, { align: ['left', 'right', 'right', 'right', 'right'] })) context.log(text)
    if (report.describeDropped() !== '') context.warn(`left out: ${report.describeDropped()}`)
    if (report.replacedBytes > 0)
      context.warn(`${report.replacedBytes} bytes were no UTF-8: U+FFFD stands in their place`)
    const seconds = (performance.now() - started) / 1000
    context.log(
      `in ${formatDuration(seconds)}; train on it with: trainyard pretrain --data ${options.out} --out runs/...`,
    )
  },
})

interface Input {
  paths: readonly string[]
  read: ReadOptions
  validation: ValidationChoice | undefined
}

/** The tokenizer that is given or trained; undefined when the training of one was interrupted. */
async function openTokenizer(
  { tokenizer, trainTokenizer }: z.output<typeof config>,
  { paths, read, validation }: Input,
  context: RunContext,
): Promise<Tokenizer | undefined> {
  if ((tokenizer === undefined) === (trainTokenizer === undefined)) {
    throw new ConfigError(
      'data prepare: expected either --tokenizer, to use that one, or --train-tokenizer with a size, to train one on this text',
    )
  }
  if (tokenizer !== undefined) return loadTokenizer(resolve(context.cwd, tokenizer))
  const counter = new PieceCounter()
  const isHeldOut = holdOut(validation)
  const line = new ProgressLine(context, 'training the tokenizer')
  const started = performance.now()
  let [documents, bytes] = [0, 0]
  for await (const document of readDocuments(paths, read, new ReadReport()) as AsyncIterable<Document>) {
    if (!isHeldOut.has(document)) counter.add(document.text)
    documents++
    bytes += Buffer.byteLength(document.text)
    await line.show(() => `${formatCount(documents)} documents, ${describeRate(bytes, started)}`)
    if (context.signal.aborted) break
  }
  line.stop()
  if (context.signal.aborted) return undefined
  const { tokenizer: trained } = trainFromCounts(counter, { vocabSize: trainTokenizer! })
  context.log(`tokenizer: ${formatCount(trained.vocabSize)} tokens, trained on the documents that are not held out`)
  return trained
}
