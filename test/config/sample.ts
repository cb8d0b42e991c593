// A made-up recipe with a field of every kind, for tests of flags, files and help.
import { z } from 'zod'
import { field } from '../../src/config/field.ts'
import { parseFlags } from '../../src/config/flags.ts'
import { defineRecipe } from '../../src/config/recipe.ts'
import { resolveConfig } from '../../src/config/resolve.ts'

export const sample = defineRecipe({
  name: 'sample',
  summary: 'shows what options can be',
  description: 'First paragraph.\n\nSecond paragraph.',
  examples: [{ command: 'sample a.txt b.txt --lr 0.1', does: 'two files' }],
  config: z.object({
    files: field(z.array(z.string()).default([]), { describe: 'texts to read', example: 'a.txt' }),
    lr: field(z.number().positive().default(3e-4), { describe: 'highest learning rate' }),
    maxSteps: field(z.number().int().min(1).optional(), { describe: 'optimizer steps', unit: 'steps', example: 500 }),
    microBatchSize: field(z.number().int().min(1).max(64).default(4), { describe: 'sequences of one forward' }),
    packing: field(z.enum(['packed', 'windows']).default('packed'), { describe: 'how rows are filled' }),
    betas: field(z.array(z.number()).default([0.9, 0.95]), { describe: 'decay rates' }),
    resume: field(z.boolean().default(false), { describe: 'go on from a checkpoint' }),
    shuffle: field(z.boolean().default(true), { describe: 'mix the documents' }),
    seed: field(z.union([z.number().int(), z.literal('random')]).default(42), { describe: 'of all randomness' }),
    limit: field(z.optional(z.string().regex(/^\d+[smh]$/, 'a time such as 10m')), { describe: 'time', example: '2h' }),
    model: z
      .object({
        hiddenSize: field(z.number().int().min(1).default(64), { describe: 'width', unit: 'channels' }),
        tieWordEmbeddings: field(z.boolean().default(true), { describe: 'one matrix for both ends' }),
      })
      .prefault({}),
  }),
  positional: ['files'],
  async run() {},
})

/** What the flags `argv` say, unchecked. */
export function flags(...argv: string[]) {
  return parseFlags(sample.name, sample.fields, sample.positional, argv)
}

/** The whole configuration under flags `argv`. */
export function configure(...argv: string[]) {
  return resolveConfig(sample.name, sample.config, [{ source: 'flags', values: flags(...argv).values }])
}
