// tokenizer_config.json: which tokens begin and end a text, and what else came with a tokenizer (chat template, padding
// token ...), which is passed on unread. special_tokens_map.json and chat_template.jinja fill in what it lacks.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type JsonObject, Place, readJson } from './json-values.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface TokenizerConfig {
  readonly bosToken: string | undefined
  readonly eosToken: string | undefined
  /** All of it; undefined where there are no files. */
  readonly values: JsonObject | undefined
}

/** @throws TokenizerError if a file is damaged, or asks for a space before every text */
export function readTokenizerConfig(folder: string): TokenizerConfig {
  const path = join(folder, 'tokenizer_config.json')
  const mapPath = join(folder, 'special_tokens_map.json')
  const templatePath = join(folder, 'chat_template.jinja')
  const config = existsSync(path) ? readJson(path) : new Place({}, `${path}:`)
  const map = existsSync(mapPath) ? readJson(mapPath) : new Place({}, `${mapPath}:`)
  map.object()
  // transformers builds a space into the tokenizer then, whatever tokenizer.json says.
  config.get('add_prefix_space').oneOf(false, null, undefined)
  const values = { ...map.object(), ...config.object() }
  if (existsSync(templatePath)) values.chat_template = readFileSync(templatePath, 'utf8')
  return {
    bosToken: tokenNamed('bos_token', config) ?? tokenNamed('bos_token', map),
    eosToken: tokenNamed('eos_token', config) ?? tokenNamed('eos_token', map),
    values: Object.keys(values).length === 0 ? undefined : values,
  }
}

/** A token is written as its text, or as an object with its flags. */
function tokenNamed(key: string, file: Place): string | undefined {
  const token = file.get(key)
  if (token.isNothing) return undefined
  return typeof token.value === 'string' ? token.value : token.get('content').string()
}

/** The text of tokenizer_config.json: what came with the tokenizer, with its own BOS and EOS. */
export function writeTokenizerConfig(tokenizer: Tokenizer): string {
  const { config, addedTokens, bosTokenId, eosTokenId, unkTokenId } = tokenizer.definition
  const contentOf = (id: number | undefined): string | null =>
    id === undefined ? null : (addedTokens.find((token) => token.id === id)?.content ?? tokenizer.decode([id]))
  const file = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    clean_up_tokenization_spaces: false,
    ...config,
    bos_token: contentOf(bosTokenId),
    eos_token: contentOf(eosTokenId),
    ...(unkTokenId === undefined ? {} : { unk_token: contentOf(unkTokenId) }),
  }
  return `${JSON.stringify(file, null, 2)}\n`
}
