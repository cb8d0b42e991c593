// trainyard tokenizer train | encode | decode | inspect: byte-level BPE from text, and a look into any tokenizer.
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { ConfigError, DataError } from '../core/errors.ts'
import { ReadReport } from '../data/document.ts'
import { readDocuments } from '../data/readers.ts'
import { loadTokenizer } from '../data/tokenizer/load.ts'
import { PieceCounter } from '../data/tokenizer/piece-counter.ts'
import type { Tokenizer } from '../data/tokenizer/tokenizer.ts'
import { END_OF_TEXT, trainInSteps } from '../data/tokenizer/train.ts'
import { decodeUtf8 } from '../data/utf8.ts'
import { formatBytes, formatCount } from '../display/format.ts'
import { type Color, clip, paint } from '../display/text.ts'
import { ProgressLine } from './progress.ts'
import { describeRate, PATTERNS, type PatternName, readOptionsOf, textFields, writeTokenizer } from './text-fields.ts'

const tokenizerField = field(z.string().min(1), {
  describe: 'folder with a tokenizer.json, such a file, or a rank file named for its encoding',
  example: 'tokenizers/books',
})

export const tokenizerTrain = defineRecipe({
  name: 'tokenizer train',
  summary: 'train a byte-level BPE tokenizer on text',
  description:
    'Reads text and JSONL files, plain or compressed, counts their pieces as they stream by, and joins the most frequent pairs. Any bytes can be encoded afterwards. Writes tokenizer.json and tokenizer_config.json, which transformers reads too. The same text gives the same tokenizer.',
  examples: [
    { command: 'tokenizer train books --vocab-size 4096 --out tokenizers/books', does: 'train on a folder' },
    {
      command: 'tokenizer train news.jsonl.gz --field body --vocab-size 32000 --pattern o200k --out tokenizers/news',
      does: 'train on a field of JSON lines',
    },
  ],
  config: z.object({
    paths: field(z.array(z.string().min(1)).min(1), { describe: 'files and folders to read', example: 'books' }),
    out: field(z.string().min(1), { describe: 'folder to write', example: 'tokenizers/books' }),
    vocabSize: field(z.number().int().min(257).default(4096), { describe: 'ids in all', unit: 'tokens' }),
    pattern: field(z.enum(Object.keys(PATTERNS) as [PatternName, ...PatternName[]]).default('llama3'), {
      describe: 'how text is cut into pieces, within which bytes are joined',
    }),
    specialToken: field(z.array(z.string().min(1)).default([END_OF_TEXT]), {
      describe: 'special tokens; <|endoftext|> among them ends documents',
    }),
    minFrequency: field(z.number().int().min(1).default(2), { describe: 'pairs that occur less often stay apart' }),
    ...textFields,
    overwrite: field(z.boolean().default(false), { describe: 'replace a tokenizer that is there' }),
  }),
  positional: ['paths'],
  async run(config, context) {
    const started = performance.now()
    const folder = resolve(context.cwd, config.out)
    if (!config.overwrite && existsSync(join(folder, 'tokenizer.json'))) {
      throw new ConfigError(
        `tokenizer train: ${config.out} already holds a tokenizer; choose another folder, or say --overwrite`,
      )
    }
    const counter = new PieceCounter(PATTERNS[config.pattern])
    const report = new ReadReport()
    let [documents, bytes] = [0, 0]
    const reading = new ProgressLine(context, 'reading')
    const paths = config.paths.map((path) => resolve(context.cwd, path))
    for await (const { text } of readDocuments(paths, readOptionsOf(config), report)) {
      counter.add(text)
      documents++
      bytes += Buffer.byteLength(text)
      await reading.show(() => `${formatCount(documents)} documents, ${describeRate(bytes, started)}`)
      if (context.signal.aborted) break
    }
    reading.stop()
    if (context.signal.aborted) return
    if (documents === 0) {
      const dropped = report.describeDropped()
      throw new DataError(`tokenizer train: expected text, found no document${dropped && `; dropped: ${dropped}`}`)
    }
    const pieces = counter.size
    const steps = trainInSteps(counter, {
      vocabSize: config.vocabSize,
      specialTokens: config.specialToken,
      pattern: PATTERNS[config.pattern],
      minFrequency: config.minFrequency,
    })
    const joining = new ProgressLine(context, 'joining')
    let step = steps.next()
    while (!step.done && !context.signal.aborted) {
      const merges = step.value
      await joining.show(() => `${formatCount(pieces)} distinct pieces, ${formatCount(merges)} merges`)
      step = steps.next()
    }
    joining.stop()
    if (!step.done) return
    const { tokenizer, bytesPerToken } = step.value
    writeTokenizer(tokenizer, folder)
    const seconds = (performance.now() - started) / 1000
    if (report.describeDropped() !== '') context.warn(`left out: ${report.describeDropped()}`)
    if (tokenizer.vocabSize < config.vocabSize) {
      context.warn(`the text has no more pairs that occur ${config.minFrequency} times: the vocabulary is smaller`)
    }
    context.log(
      `${formatCount(tokenizer.vocabSize)} tokens from ${formatCount(documents)} documents, ${formatBytes(bytes)}, ${bytesPerToken.toFixed(2)} bytes per token, in ${seconds.toFixed(1)} s; written to ${config.out}`,
    )
  },
})

export const tokenizerEncode = defineRecipe({
  name: 'tokenizer encode',
  summary: 'turn text into token ids',
  description: 'The text is --text, a file, or standard input. Ids are parted by spaces, or a JSON list with --json.',
  examples: [
    { command: 'tokenizer encode tokenizers/books --text "Call me Ishmael."', does: 'encode a sentence' },
    { command: 'tokenizer encode tokenizers/books --file moby.txt --json > ids.json', does: 'encode a file' },
  ],
  config: z.object({
    tokenizer: tokenizerField,
    text: field(z.string().optional(), { describe: 'text to encode', example: 'Call me Ishmael.' }),
    file: field(z.string().min(1).optional(), { describe: 'file to encode', example: 'moby.txt' }),
    addSpecialTokens: field(z.boolean().default(false), {
      describe: "put the tokenizer's BOS in front, if it has one",
    }),
    parseSpecial: field(z.boolean().default(true), { describe: 'special tokens in the text become their ids' }),
    json: field(z.boolean().default(false), { describe: 'print a JSON list' }),
  }),
  positional: ['tokenizer'],
  async run({ tokenizer, text, file, addSpecialTokens, parseSpecial, json }, context) {
    const loaded = loadTokenizer(resolve(context.cwd, tokenizer))
    const ids = loaded.encode(await inputText('tokenizer encode', text, file, context), {
      addSpecialTokens,
      parseSpecial,
    })
    context.log(json ? JSON.stringify(ids) : ids.join(' '))
  },
})

export const tokenizerDecode = defineRecipe({
  name: 'tokenizer decode',
  summary: 'turn token ids into text',
  description:
    'The ids are words of the command line, a file, or standard input: numbers parted by spaces or commas, or a JSON list. What comes out is the text alone, byte for byte.',
  examples: [
    { command: 'tokenizer decode tokenizers/books 464 3290', does: 'decode two ids' },
    { command: 'tokenizer decode tokenizers/books --file ids.json > moby.txt', does: 'decode a file of ids' },
  ],
  config: z.object({
    tokenizer: tokenizerField,
    ids: field(z.array(z.number().int().min(0)).default([]), { describe: 'ids to decode', example: 464 }),
    file: field(z.string().min(1).optional(), { describe: 'file of ids', example: 'ids.json' }),
    skipSpecialTokens: field(z.boolean().default(false), { describe: 'leave special tokens out of the text' }),
  }),
  positional: ['tokenizer', 'ids'],
  async run({ tokenizer, ids, file, skipSpecialTokens }, context) {
    const loaded = loadTokenizer(resolve(context.cwd, tokenizer))
    const list = ids.length > 0 ? ids : parseIds(await inputText('tokenizer decode', undefined, file, context))
    const unknown = list.find((id) => id >= loaded.vocabSize)
    if (unknown !== undefined) {
      throw new ConfigError(
        `tokenizer decode: ids must be below ${loaded.vocabSize} for ${tokenizer}, got ${unknown}; is it the right tokenizer?`,
      )
    }
    // Bytes, because ids may stand for part of a character; Llama 2's kind has a rule of its own for the first space.
    const isBytes = loaded.definition.kind === 'bytes'
    context.write(
      isBytes ? loaded.decodeBytes(list, { skipSpecialTokens }) : loaded.decode(list, { skipSpecialTokens }),
    )
  },
})

function parseIds(text: string): number[] {
  const words = text
    .replaceAll(/[[\],]/g, ' ')
    .trim()
    .split(/\s+/)
    .filter(Boolean)
  const wrong = words.find((word) => !/^\d+$/.test(word))
  if (wrong !== undefined) {
    throw new ConfigError(`tokenizer decode: expected ids, whole numbers parted by spaces or commas, got "${wrong}"`)
  }
  return words.map(Number)
}

async function inputText(
  who: string,
  text: string | undefined,
  file: string | undefined,
  context: RunContext,
): Promise<string> {
  if (text !== undefined && file !== undefined) throw new ConfigError(`${who}: give --text or --file, not both`)
  if (text !== undefined) return text
  const bytes = file === undefined ? await context.readInput() : await readFile(resolve(context.cwd, file))
  const { text: read, replacedBytes } = decodeUtf8(Buffer.from(bytes))
  if (replacedBytes > 0) context.warn(`${who}: ${replacedBytes} bytes were no UTF-8: U+FFFD stands in their place`)
  return read
}

const COLORS: readonly Color[] = ['cyan', 'yellow', 'green', 'magenta']

export const tokenizerInspect = defineRecipe({
  name: 'tokenizer inspect',
  summary: 'show what a tokenizer is, and how it cuts a text',
  examples: [
    { command: 'tokenizer inspect tokenizers/books', does: 'kind, pattern, special tokens, longest tokens' },
    { command: 'tokenizer inspect tokenizers/books --text "Call me Ishmael."', does: 'the tokens of a text' },
  ],
  config: z.object({
    tokenizer: tokenizerField,
    text: field(z.string().optional(), { describe: 'text to cut', example: 'Call me Ishmael.' }),
    json: field(z.boolean().default(false), { describe: 'print one JSON object' }),
  }),
  positional: ['tokenizer'],
  async run({ tokenizer, text, json }, context) {
    const loaded = loadTokenizer(resolve(context.cwd, tokenizer))
    const facts = factsOf(loaded)
    const ids = text === undefined ? undefined : loaded.encode(text)
    if (json) {
      context.log(JSON.stringify({ ...facts, ...(ids && { ids, tokens: ids.map((id) => visible(loaded, id)) }) }))
      return
    }
    const line = (name: string, value: string): void => context.log(`${name.padEnd(15)} ${value}`)
    line('kind', facts.kind === 'bytes' ? 'byte-level BPE' : 'BPE over characters with byte fallback')
    line('vocabulary', `${formatCount(facts.vocabSize)} ids, ${formatCount(facts.merges)} merges`)
    line('pattern', facts.pattern === '' ? 'none' : facts.pattern)
    line('beginning, end', `${facts.bosTokenId ?? 'none'}, ${facts.eosTokenId ?? 'none'}`)
    const shown = facts.specialTokens.slice(0, 8).map(({ id, content }) => `${content} ${id}`)
    const more = facts.specialTokens.length - shown.length
    line('special tokens', `${shown.join(', ') || 'none'}${more > 0 ? ` and ${more} more` : ''}`)
    line('longest tokens', facts.longestTokens.map((token) => JSON.stringify(clip(token, 24))).join(' '))
    line('chat template', facts.hasChatTemplate ? 'yes' : 'none')
    line('hash', facts.hash)
    if (text === undefined || ids === undefined) return
    const bytes = Buffer.byteLength(text)
    line('tokens', `${ids.length} for ${bytes} bytes: ${(bytes / Math.max(1, ids.length)).toFixed(2)} bytes each`)
    context.log(
      ids
        .map((id, i) => paint(visible(loaded, id), COLORS[i % COLORS.length]!, context.hasColor))
        .join(context.hasColor ? '' : '|'),
    )
    context.log(ids.join(' '))
  },
})

function factsOf(tokenizer: Tokenizer) {
  const { definition, vocabSize, bosTokenId, eosTokenId, hash } = tokenizer
  const { kind, merges, pattern, addedTokens } = definition
  const longest = definition.vocabulary
    .flatMap((bytes, id) => (bytes === undefined || tokenizer.isSpecial(id) ? [] : [{ id, length: bytes.length }]))
    .sort((a, b) => b.length - a.length || a.id - b.id)
    .slice(0, 8)
  return {
    kind,
    vocabSize,
    merges: merges.length,
    pattern,
    bosTokenId,
    eosTokenId,
    specialTokens: addedTokens.filter(({ special }) => special).map(({ id, content }) => ({ id, content })),
    longestTokens: longest.map(({ id }) => visible(tokenizer, id)),
    hasChatTemplate: tokenizer.chatTemplate !== undefined,
    hash,
  }
}

/** A token as text on one line: line ends and bytes that are no character are written out. */
function visible(tokenizer: Tokenizer, id: number): string {
  const bytes = Buffer.from(tokenizer.decodeBytes([id]))
  const text = bytes.toString('utf8')
  if (!Buffer.from(text).equals(bytes))
    return [...bytes].map((byte) => `<${byte.toString(16).padStart(2, '0')}>`).join('')
  return text.replaceAll('\n', '\\n').replaceAll('\r', '\\r').replaceAll('\t', '\\t')
}
