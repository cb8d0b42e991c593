// What tokenizer train and data prepare share: options of reading text, names of splitting patterns, writing a tokenizer.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { field } from '../config/field.ts'
import { AtomicFile } from '../data/atomic-file.ts'
import type { ReadOptions } from '../data/readers.ts'
import { tokenizerFiles } from '../data/tokenizer/load.ts'
import { GPT2_PATTERN, LLAMA3_PATTERN, O200K_PATTERN, QWEN2_PATTERN } from '../data/tokenizer/pretokenize.ts'
import type { Tokenizer } from '../data/tokenizer/tokenizer.ts'
import { formatBytes } from '../display/format.ts'

/** Splitting patterns by the family that introduced them. */
export const PATTERNS = {
  llama3: LLAMA3_PATTERN,
  gpt2: GPT2_PATTERN,
  qwen2: QWEN2_PATTERN,
  o200k: O200K_PATTERN,
} as const

export type PatternName = keyof typeof PATTERNS

export const textFields = {
  format: field(z.enum(['auto', 'text', 'jsonl']).default('auto'), {
    describe: 'read every file as this; auto by name',
  }),
  field: field(z.string().min(1).default('text'), { describe: 'JSON lines: the field that holds the text' }),
  split: field(z.enum(['none', 'lines', 'blank-lines', 'separator']).default('none'), {
    describe: 'text files: what a document is; none takes the whole file',
  }),
  separator: field(z.string().min(1).optional(), {
    describe: 'with --split separator: what stands between documents',
    example: '<|endoftext|>',
  }),
}

interface TextOptions {
  format: 'auto' | 'text' | 'jsonl'
  field: string
  split: 'none' | 'lines' | 'blank-lines' | 'separator'
  separator?: string | undefined
}

export function readOptionsOf({ format, field, split, separator }: TextOptions): ReadOptions {
  return { field, split, separator, ...(format !== 'auto' && { format }) }
}

/** Writes the files of a tokenizer into a folder, made if need be; each appears whole or not at all. */
export function writeTokenizer(tokenizer: Tokenizer, folder: string): void {
  mkdirSync(folder, { recursive: true })
  for (const [name, content] of Object.entries(tokenizerFiles(tokenizer))) {
    const file = new AtomicFile(join(folder, name))
    try {
      file.write(Buffer.from(content))
    } catch (error) {
      file.abort()
      throw error
    }
    file.commit()
  }
}

/** How much has been read in how long: '12.0 MB at 31.5 MB/s'. */
export function describeRate(bytes: number, startedMs: number): string {
  const rate = (bytes * 1000) / (performance.now() - startedMs)
  return `${formatBytes(bytes)} at ${formatBytes(rate)}/s`
}
