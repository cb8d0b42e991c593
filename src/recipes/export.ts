// trainyard export hf | llama2c: a run's model for other programs: transformers and everything that reads its folders,
// or llama2.c. Every export reads back what it wrote, compares what both models say, and leaves a parity report.
import { resolve } from 'node:path'
import { z } from 'zod'
import { convertHfFolder, exportLlama2c } from '../checkpoint/convert.ts'
import { findModelFolder } from '../checkpoint/model-folder.ts'
import { paritySentence } from '../checkpoint/parity.ts'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { checkTokens, compareGreedily } from './greedy-parity.ts'

const checkpoint = field(z.string().min(1), {
  describe: 'run (its newest complete checkpoint is taken), checkpoint or Hugging Face folder',
  example: 'runs/tiny',
})

export const exportHf = defineRecipe({
  name: 'export hf',
  summary: 'write a model as a Hugging Face folder',
  description:
    'Writes config.json, model.safetensors (in shards above maxShardBytes), generation_config.json and the tokenizer, as transformers 4 and 5 load them. The state of the trainer stays behind.',
  examples: [
    { command: 'export hf runs/tiny --out exports/tiny', does: 'the newest checkpoint, as it is' },
    {
      command: 'export hf runs/tiny/checkpoints/step-500 --out exports/tiny --dtype bf16',
      does: 'one step, in bfloat16',
    },
  ],
  config: z.object({
    checkpoint,
    out: field(z.string().min(1), { describe: 'folder to make; it must not exist yet', example: 'exports/tiny' }),
    dtype: field(z.enum(['keep', 'f32', 'bf16', 'f16']).default('keep'), {
      describe: 'element type of the weights written; keep leaves each tensor its own',
    }),
    maxShardBytes: field(z.int().min(1).default(5_000_000_000), {
      describe: 'weights above this size are cut into several files',
      unit: 'bytes',
    }),
    checkTokens,
  }),
  positional: ['checkpoint'],
  async run(config, context) {
    const { dtype, maxShardBytes } = config
    const from = source(config.checkpoint, context)
    const out = resolve(context.cwd, config.out)
    const parity = await convertHfFolder(from, out, {
      maxShardBytes,
      compareModels: compareGreedily(config.checkTokens, context),
      ...(dtype !== 'keep' && { dtype }),
    })
    context.log(paritySentence(config.out, parity))
  },
})

export const exportLlama2cRecipe = defineRecipe({
  name: 'export llama2c',
  summary: 'write a Llama model as a llama2.c file',
  description:
    "Writes the legacy format that karpathy/llama2.c's run.c reads, in float32. Refused where run.c would compute something else: another RoPE base or scaling, another norm epsilon. The tokenizer is not converted.",
  examples: [{ command: 'export llama2c runs/tiny --out tiny.bin', does: 'the newest checkpoint of a run' }],
  config: z.object({
    checkpoint,
    out: field(z.string().min(1), { describe: 'file to write; it must not exist yet', example: 'tiny.bin' }),
    checkTokens,
  }),
  positional: ['checkpoint'],
  async run(config, context) {
    const from = source(config.checkpoint, context)
    const parity = await exportLlama2c(from, resolve(context.cwd, config.out), {
      compareModels: compareGreedily(config.checkTokens, context),
    })
    context.log(paritySentence(config.out, parity))
  },
})

function source(path: string, context: RunContext): string {
  const { folder, warnings } = findModelFolder(resolve(context.cwd, path))
  for (const warning of warnings) context.warn(warning)
  return folder
}
