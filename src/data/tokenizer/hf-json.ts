// Hugging Face's tokenizer.json, read and written, for byte-level BPE (GPT-2, Llama 3, Qwen) and the byte-fallback BPE
// of Llama 2. tokenizer_config.json is tokenizer-config.ts's; what this program does not compute is refused by name.
import { dirname } from 'node:path'
import { shown } from '../../core/json.ts'
import type { AddedToken } from './added-tokens.ts'
import { spellBytes, unspellBytes } from './byte-alphabet.ts'
import { MAX_VOCAB_SIZE, textOf } from './definition.ts'
import { componentsJson, readComponents } from './hf-components.ts'
import { type Place, readJson } from './json-values.ts'
import type { Merge } from './merge.ts'
import { type Tokenizer, tokenizerOfFile } from './tokenizer.ts'
import { readTokenizerConfig } from './tokenizer-config.ts'

const encoder = new TextEncoder()

/**
 * Reads a tokenizer.json with the tokenizer_config.json, special_tokens_map.json and chat_template.jinja beside it,
 * where they are.
 * @throws TokenizerError in one sentence if a file is damaged or has a component that is not supported
 */
export function readTokenizerJson(path: string): Tokenizer {
  const file = readJson(path)
  file.object([
    'version',
    'truncation',
    'padding',
    'added_tokens',
    'normalizer',
    'pre_tokenizer',
    'post_processor',
    'decoder',
    'model',
  ])
  // transformers sets both with every call; a file that brings its own would give other ids here than there.
  file.get('truncation').oneOf(null, undefined)
  file.get('padding').oneOf(null, undefined)
  const model = file.get('model')
  checkModelType(model)
  const { bos, ...components } = readComponents(file)
  const isFallback = components.kind === 'byteFallback'
  const { ignoreMerges, unkToken } = readModelOptions(model, isFallback)
  const addedTokens = readAddedTokens(file.get('added_tokens'))
  const idOf = readVocabulary(model.get('vocab'))
  const vocabulary = tokenBytes(model.get('vocab'), idOf, addedTokens, isFallback)
  const config = readTokenizerConfig(dirname(path))
  const added = new Map(addedTokens.map((token) => [token.content, token.id]))
  const find = (content: string | undefined, what: string): number | undefined => {
    if (content === undefined) return undefined
    const id = added.get(content) ?? idOf.get(content)
    return id ?? file.fail(`has no token ${shown(content)}, which is to be its ${what} token`)
  }
  const bosTokenId = find(bos ?? config.bosToken, 'BOS')
  if (bos !== undefined && config.bosToken !== undefined && bos !== config.bosToken) {
    file
      .get('post_processor')
      .fail(`puts ${shown(bos)} before a text, but tokenizer_config.json calls ${shown(config.bosToken)} BOS`)
  }
  return tokenizerOfFile(path, {
    ...components,
    vocabulary,
    merges: readMerges(model.get('merges'), idOf),
    ignoreMerges,
    addedTokens,
    bosTokenId,
    eosTokenId: find(config.eosToken, 'EOS'),
    unkTokenId: isFallback ? find(unkToken, 'unknown') : undefined,
    addsBos: bos !== undefined,
    config: config.values,
  })
}

function checkModelType(model: Place): void {
  model.object()
  const type = model.get('type')
  // The oldest files of GPT-2 name no type.
  if (type.value !== undefined && type.string() !== 'BPE') {
    model.fail(`is ${type.string().slice(0, 60)}, which is not supported; expected BPE`)
  }
}

function readModelOptions(model: Place, isFallback: boolean): { ignoreMerges: boolean; unkToken: string | undefined } {
  model.object([
    'type',
    'dropout',
    'unk_token',
    'continuing_subword_prefix',
    'end_of_word_suffix',
    'fuse_unk',
    'byte_fallback',
    'ignore_merges',
    'vocab',
    'merges',
  ])
  model.get('dropout').oneOf(null, undefined, 0)
  model.get('continuing_subword_prefix').oneOf(null, undefined, '')
  model.get('end_of_word_suffix').oneOf(null, undefined, '')
  model.get('byte_fallback').oneOf(...(isFallback ? [true] : [false, null, undefined]))
  const ignores = model.get('ignore_merges')
  if (isFallback) ignores.oneOf(false, null, undefined)
  // Every byte has a token (which is checked), so what an unknown piece becomes is never asked.
  const unk = model.get('unk_token')
  return {
    ignoreMerges: ignores.value === null ? false : ignores.boolean(false),
    unkToken: unk.isNothing || unk.value === '' ? undefined : unk.string(),
  }
}

function readAddedTokens(list: Place): AddedToken[] {
  if (list.isNothing) return []
  return list.list().map((entry) => {
    entry.object(['id', 'content', 'single_word', 'lstrip', 'rstrip', 'normalized', 'special'])
    return {
      id: readId(entry.get('id'), entry.get('id').value),
      content: entry.get('content').string(),
      special: entry.get('special').boolean(false),
      lstrip: entry.get('lstrip').boolean(false),
      rstrip: entry.get('rstrip').boolean(false),
      singleWord: entry.get('single_word').boolean(false),
      normalized: entry.get('normalized').boolean(false),
    }
  })
}

function readId(place: Place, value: unknown): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < MAX_VOCAB_SIZE) return value
  return place.fail(`must be a whole number from 0 to ${MAX_VOCAB_SIZE - 1}, got ${shown(value)}`)
}

/** Ids by token as it is written. */
function readVocabulary(vocab: Place): Map<string, number> {
  const idOf = new Map<string, number>()
  const seen = new Set<number>()
  for (const [token, value] of Object.entries(vocab.object())) {
    const id = readId(vocab, value)
    if (seen.has(id)) vocab.fail(`gives id ${id} to two tokens, one of them ${JSON.stringify(token)}`)
    seen.add(id)
    idOf.set(token, id)
  }
  return idOf
}

function tokenBytes(
  vocab: Place,
  idOf: ReadonlyMap<string, number>,
  addedTokens: readonly AddedToken[],
  isFallback: boolean,
): (Uint8Array | undefined)[] {
  let length = 0
  for (const id of idOf.values()) length = Math.max(length, id + 1)
  const vocabulary: (Uint8Array | undefined)[] = new Array(length).fill(undefined)
  const addedIds = new Map(addedTokens.map((token) => [token.content, token.id]))
  const contents = new Map(addedTokens.map((token) => [token.id, token.content]))
  for (const [token, id] of idOf) {
    const addedId = addedIds.get(token)
    if ((addedId !== undefined && addedId !== id) || (contents.get(id) ?? token) !== token) {
      vocab.fail(`gives ${JSON.stringify(token)} id ${id}, but added_tokens says otherwise`)
    }
    const bytes = isFallback ? encoder.encode(token) : unspellBytes(token)
    if (bytes === undefined && addedId === undefined) {
      vocab.fail(`has ${JSON.stringify(token)}, which is not written in GPT-2's alphabet of bytes`)
    }
    vocabulary[id] = bytes
  }
  return vocabulary
}

/** Merges are written as 'left right' or ['left', 'right']. */
function readMerges(list: Place, idOf: ReadonlyMap<string, number>): Merge[] {
  const { value } = list
  if (!Array.isArray(value)) return list.fail('must be a list')
  return value.map((entry: unknown, i): Merge => {
    const pair: unknown[] = typeof entry === 'string' ? entry.split(' ') : Array.isArray(entry) ? entry : []
    const [left, right] = pair
    if (pair.length !== 2 || typeof left !== 'string' || typeof right !== 'string') {
      return list.fail(`must be pairs of tokens, but number ${i} is ${shown(entry)}`)
    }
    const id = (token: string): number =>
      idOf.get(token) ?? list.fail(`names ${JSON.stringify(token.slice(0, 60))}, which is not in the vocabulary`)
    return [id(left), id(right), id(left + right)]
  })
}

/** The text of tokenizer.json, which npm and Python `tokenizers` and transformers load with equal ids. */
export function writeTokenizerJson(tokenizer: Tokenizer): string {
  const { definition } = tokenizer
  const { kind, vocabulary, merges, addedTokens, ignoreMerges, unkTokenId } = definition
  const isFallback = kind === 'byteFallback'
  const spelled = vocabulary.map((bytes) => bytes && (isFallback ? textOf(bytes) : spellBytes(bytes)))
  const entries = spelled.flatMap((token, id): [string, number][] => (token === undefined ? [] : [[token, id]]))
  const byId = [...addedTokens].sort((a, b) => a.id - b.id)
  // Loaders number added tokens from the end of the vocabulary on, unless they find them in it.
  const areNext = byId.every((token, i) => token.id === entries.length + i) && entries.length === vocabulary.length
  const known = new Set(entries.map(([, id]) => id))
  const missing = areNext ? [] : byId.filter((token) => !known.has(token.id))
  const unkToken =
    unkTokenId === undefined ? null : (byId.find((token) => token.id === unkTokenId)?.content ?? spelled[unkTokenId])
  const pairs = merges.map(([left, right]) => [spelled[left]!, spelled[right]!])
  const hasSpaces = pairs.some(([left, right]) => left!.includes(' ') || right!.includes(' '))
  const file = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: byId.map((token) => ({
      id: token.id,
      content: token.content,
      single_word: token.singleWord ?? false,
      lstrip: token.lstrip ?? false,
      rstrip: token.rstrip ?? false,
      normalized: token.normalized ?? false,
      special: token.special,
    })),
    ...componentsJson(definition),
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: unkToken,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: isFallback,
      byte_fallback: isFallback,
      ignore_merges: ignoreMerges,
      vocab: Object.fromEntries([...entries, ...missing.map(({ content, id }): [string, number] => [content, id])]),
      // Strings are read by every version of the loaders, pairs by newer ones; strings cannot hold a space.
      merges: hasSpaces ? pairs : pairs.map((pair) => pair.join(' ')),
    },
  }
  return `${JSON.stringify(file, null, 2)}\n`
}
