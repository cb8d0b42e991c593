// The components of a Hugging Face tokenizer.json around its model (normalizer, pre_tokenizer, post_processor, decoder)
// as the few facts that a definition needs, and back. What is not one of the supported families is refused by name.
import { SPACE, type TokenizerDefinition } from './definition.ts'
import type { Place } from './json-values.ts'
import { GPT2_PATTERN } from './pretokenize.ts'

/** What the components say. */
export interface Components {
  readonly kind: TokenizerDefinition['kind']
  readonly normalization: TokenizerDefinition['normalization']
  readonly pattern: string
  /** Content of the token that goes before every text. */
  readonly bos: string | undefined
}

/** Reads them. @throws TokenizerError naming a component that is not supported */
export function readComponents(file: Place): Components {
  const kind = readDecoder(file.get('decoder'))
  const normalizer = file.get('normalizer')
  const normalizers = sequence(normalizer, 'normalizers')
  if (kind === 'byteFallback') {
    checkFallbackNormalizer(normalizer, normalizers)
    const [preTokenizer] = sequence(file.get('pre_tokenizer'), 'pretokenizers')
    if (preTokenizer !== undefined) refuse(preTokenizer, 'none, as in the files of Llama 2')
    return { kind, normalization: '', pattern: '', bos: readPostProcessor(file.get('post_processor')) }
  }
  for (const part of normalizers) if (typeOf(part) !== 'NFC') refuse(part, 'NFC or none')
  return {
    kind,
    normalization: normalizers.length > 0 ? 'NFC' : '',
    pattern: readPattern(file.get('pre_tokenizer')),
    bos: readPostProcessor(file.get('post_processor')),
  }
}

/** The parts of a component: of a Sequence its members, which may be Sequences themselves. */
function sequence(component: Place, key: string, depth = 0): Place[] {
  if (component.isNothing) return []
  if (typeOf(component) !== 'Sequence') return [component]
  if (depth > 8) component.fail('nests too deep')
  component.object(['type', key])
  return component
    .get(key)
    .list()
    .flatMap((part) => sequence(part, key, depth + 1))
}

function typeOf(component: Place): string {
  return component.get('type').string()
}

function refuse(component: Place, expected: string): never {
  const type = typeOf(component)
  return component.fail(`is ${type.slice(0, 60)}, which is not supported; expected ${expected}`)
}

const BYTE_LEVEL_KEYS = ['type', 'add_prefix_space', 'trim_offsets', 'use_regex']

function readDecoder(component: Place): TokenizerDefinition['kind'] {
  const parts = sequence(component, 'decoders')
  const types = parts.map(typeOf)
  if (types.join() === 'ByteLevel') {
    parts[0]!.object(BYTE_LEVEL_KEYS)
    return 'bytes'
  }
  const expected = ['Replace', 'ByteFallback', 'Fuse', 'Strip']
  const wrong = parts.find((_, i) => types[i] !== expected[i])
  if (wrong !== undefined) refuse(wrong, 'ByteLevel, or Replace, ByteFallback, Fuse and Strip in this order')
  if (parts.length !== expected.length) {
    component.fail('must be ByteLevel, or Replace, ByteFallback, Fuse and Strip in this order')
  }
  const [replace, , , strip] = parts as [Place, Place, Place, Place]
  checkReplace(replace, SPACE, ' ')
  strip.object(['type', 'content', 'start', 'stop'])
  strip.get('content').oneOf(' ')
  strip.get('start').oneOf(1)
  strip.get('stop').oneOf(0)
  return 'byteFallback'
}

function checkFallbackNormalizer(component: Place, parts: readonly Place[]): void {
  const expected = ['Prepend', 'Replace']
  const wrong = parts.find((part, i) => typeOf(part) !== expected[i])
  if (wrong !== undefined) refuse(wrong, 'Prepend and Replace, as in the files of Llama 2')
  if (parts.length !== expected.length) component.fail('must be Prepend and Replace, as in the files of Llama 2')
  parts[0]!.object(['type', 'prepend'])
  parts[0]!.get('prepend').oneOf(SPACE)
  checkReplace(parts[1]!, ' ', SPACE)
}

function checkReplace(component: Place, from: string, to: string): void {
  component.object(['type', 'pattern', 'content'])
  component.get('pattern').object(['String'])
  component.get('pattern').get('String').oneOf(from)
  component.get('content').oneOf(to)
}

/** ByteLevel with its own pattern, or a Split before it. */
function readPattern(component: Place): string {
  const parts = sequence(component, 'pretokenizers')
  const byteLevel = parts.at(-1)
  if (byteLevel === undefined) return component.fail('must be ByteLevel, or Split and ByteLevel')
  if (typeOf(byteLevel) !== 'ByteLevel') refuse(byteLevel, 'ByteLevel, or Split and ByteLevel')
  byteLevel.object(BYTE_LEVEL_KEYS)
  byteLevel.get('add_prefix_space').oneOf(false)
  const usesRegex = byteLevel.get('use_regex').boolean(true)
  if (parts.length === 1) return usesRegex ? GPT2_PATTERN : ''
  const split = parts[0]!
  if (typeOf(split) !== 'Split') refuse(split, 'ByteLevel, or Split and ByteLevel')
  if (parts.length > 2) refuse(parts[1]!, 'ByteLevel after one Split')
  if (usesRegex) byteLevel.fail('must have use_regex false, since a Split comes before it')
  split.object(['type', 'pattern', 'behavior', 'invert'])
  split.get('behavior').oneOf('Isolated')
  split.get('invert').oneOf(false, undefined)
  split.get('pattern').object(['Regex'])
  const pattern = split.get('pattern').get('Regex').string()
  return pattern === '' ? split.get('pattern').fail('must not be empty') : pattern
}

/** @returns the token that is put before a text */
function readPostProcessor(component: Place): string | undefined {
  let bos: string | undefined
  for (const part of sequence(component, 'processors')) {
    const type = typeOf(part)
    // It only moves offsets, which are not kept here.
    if (type === 'ByteLevel') part.object(BYTE_LEVEL_KEYS)
    else if (type === 'TemplateProcessing') bos = readTemplate(part)
    else refuse(part, 'ByteLevel, TemplateProcessing or none')
  }
  return bos
}

function readTemplate(template: Place): string | undefined {
  template.object(['type', 'single', 'pair', 'special_tokens'])
  const parts = template.get('single').list()
  const names = parts.map((part) => Object.keys(part.object())[0])
  if (names.join() === 'Sequence') return undefined
  if (names.join() !== 'SpecialToken,Sequence') {
    template.get('single').fail('must be the text, or one special token and the text')
  }
  const name = parts[0]!.get('SpecialToken').get('id').string()
  const ids = template.get('special_tokens').get(name).get('tokens').list()
  if (ids.length !== 1) template.get('special_tokens').fail(`must give one token for ${JSON.stringify(name)}`)
  return ids[0]!.string()
}

/** The components of a definition, as tokenizer.json has them. */
export function componentsJson(definition: TokenizerDefinition): Record<string, unknown> {
  const { kind, normalization, pattern } = definition
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true }
  if (kind === 'byteFallback') {
    return {
      normalizer: {
        type: 'Sequence',
        normalizers: [
          { type: 'Prepend', prepend: SPACE },
          { type: 'Replace', pattern: { String: ' ' }, content: SPACE },
        ],
      },
      pre_tokenizer: null,
      post_processor: templateJson(definition),
      decoder: {
        type: 'Sequence',
        decoders: [
          { type: 'Replace', pattern: { String: SPACE }, content: ' ' },
          { type: 'ByteFallback' },
          { type: 'Fuse' },
          { type: 'Strip', content: ' ', start: 1, stop: 0 },
        ],
      },
    }
  }
  const split = { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false }
  const plain = { ...byteLevel, use_regex: false }
  return {
    normalizer: normalization === '' ? null : { type: normalization },
    pre_tokenizer:
      pattern === GPT2_PATTERN
        ? byteLevel
        : pattern === ''
          ? plain
          : { type: 'Sequence', pretokenizers: [split, plain] },
    post_processor: definition.addsBos
      ? { type: 'Sequence', processors: [{ ...plain, trim_offsets: false }, templateJson(definition)] }
      : { ...plain, trim_offsets: false },
    decoder: byteLevel,
  }
}

function templateJson({ addsBos, bosTokenId, addedTokens }: TokenizerDefinition): object | null {
  if (!addsBos) return null
  const bos = addedTokens.find((token) => token.id === bosTokenId)!.content
  const special = (typeId: number) => ({ SpecialToken: { id: bos, type_id: typeId } })
  const text = (id: string, typeId: number) => ({ Sequence: { id, type_id: typeId } })
  return {
    type: 'TemplateProcessing',
    single: [special(0), text('A', 0)],
    pair: [special(0), text('A', 0), special(1), text('B', 1)],
    special_tokens: { [bos]: { id: bos, ids: [bosTokenId], tokens: [bos] } },
  }
}
