// One door to tokenizer files of every supported kind, and the files that a saved tokenizer consists of.
import { existsSync, readdirSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { TokenizerError } from '../../core/errors.ts'
import { readTokenizerJson, writeTokenizerJson } from './hf-json.ts'
import { readTiktoken } from './tiktoken.ts'
import type { Tokenizer } from './tokenizer.ts'
import { writeTokenizerConfig } from './tokenizer-config.ts'

/**
 * Loads a tokenizer: a folder with a tokenizer.json (of a tokenizer, a model, a checkpoint, or prepared data, which
 * keeps it in `tokenizer/`), a .json file in that form, or a rank file named for its encoding (cl100k_base.tiktoken).
 * @throws TokenizerError if there is none, or it is damaged or of a kind that is not supported
 */
export function loadTokenizer(pathOrFolder: string): Tokenizer {
  if (!existsSync(pathOrFolder)) {
    throw new TokenizerError(`${pathOrFolder}: expected a tokenizer, but there is no such file or folder`)
  }
  const path = statSync(pathOrFolder).isDirectory() ? findInFolder(pathOrFolder) : pathOrFolder
  if (path.endsWith('.json')) return readTokenizerJson(path)
  if (path.endsWith('.tiktoken')) return readTiktoken(path, basename(path, '.tiktoken'))
  throw new TokenizerError(`${path}: expected a tokenizer.json or a .tiktoken file, got a file of another name`)
}

function findInFolder(folder: string): string {
  const candidates = ['tokenizer.json', join('tokenizer', 'tokenizer.json')].map((name) => join(folder, name))
  const found = candidates.find((path) => existsSync(path))
  if (found !== undefined) return found
  const ranks = readdirSync(folder).filter((name) => name.endsWith('.tiktoken'))
  if (ranks.length === 1) return join(folder, ranks[0]!)
  throw new TokenizerError(`${folder}: expected a tokenizer.json in this folder, but there is none`)
}

/** The files of a tokenizer by name, as Hugging Face folders have them; transformers loads them. */
export function tokenizerFiles(tokenizer: Tokenizer): Record<string, string> {
  return {
    'tokenizer.json': writeTokenizerJson(tokenizer),
    'tokenizer_config.json': writeTokenizerConfig(tokenizer),
  }
}
