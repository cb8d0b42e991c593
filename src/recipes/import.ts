// trainyard import hf | llama2c: models of others into a folder of ours, which is a Hugging Face folder. Every import
// reads back what it wrote, compares what both models say, and leaves parity.json in it.
import { resolve } from 'node:path'
import { z } from 'zod'
import { convertHfFolder, importLlama2c } from '../checkpoint/convert.ts'
import { findModelFolder } from '../checkpoint/model-folder.ts'
import { paritySentence } from '../checkpoint/parity.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { checkTokens, compareGreedily } from './greedy-parity.ts'

const out = field(z.string().min(1), { describe: 'folder to make; it must not exist yet', example: 'models/mine' })

export const importHf = defineRecipe({
  name: 'import hf',
  summary: 'check a Hugging Face folder and copy it into a clean one',
  description:
    'Reads config.json and safetensors (one file or shards) of a GPT-2 or Llama model, checks every name and shape, and writes a folder that generate, chat and pretrain take. Options that this program does not compute are refused by name.',
  examples: [
    { command: 'import hf downloads/gpt2 --out models/gpt2', does: 'import a downloaded model' },
    { command: 'import hf downloads/llama --out models/llama --dtype f32', does: 'the same, widened to float32' },
  ],
  config: z.object({
    folder: field(z.string().min(1), { describe: 'Hugging Face folder to read', example: 'downloads/gpt2' }),
    out,
    dtype: field(z.enum(['keep', 'f32', 'bf16', 'f16']).default('keep'), {
      describe: 'element type of the weights written; keep leaves each tensor its own',
    }),
    checkTokens,
  }),
  positional: ['folder'],
  async run(config, context) {
    const { folder, warnings } = findModelFolder(resolve(context.cwd, config.folder))
    for (const warning of warnings) context.warn(warning)
    const target = resolve(context.cwd, config.out)
    const parity = await convertHfFolder(folder, target, {
      ...(config.dtype !== 'keep' && { dtype: config.dtype }),
      compareModels: compareGreedily(config.checkTokens, context),
    })
    context.log(paritySentence(config.out, parity))
  },
})

export const importLlama2cRecipe = defineRecipe({
  name: 'import llama2c',
  summary: 'turn a llama2.c model file into a Hugging Face folder',
  description:
    "Reads the legacy format of karpathy/llama2.c (run.c's .bin files), puts the rows of q and k into Hugging Face's rotary order, and converts the tokenizer file where one is given.",
  examples: [
    {
      command: 'import llama2c stories260K.bin --tokenizer tok512.bin --out models/stories260K',
      does: 'import a model with its tokenizer',
    },
  ],
  config: z.object({
    model: field(z.string().min(1), { describe: 'llama2.c model file', example: 'stories260K.bin' }),
    tokenizer: field(z.string().min(1).optional(), {
      describe: 'llama2.c tokenizer file of that model; without it the folder has no tokenizer',
      example: 'tok512.bin',
    }),
    out,
    dtype: field(z.enum(['f32', 'bf16', 'f16']).default('f32'), { describe: 'element type of the weights written' }),
    checkTokens,
  }),
  positional: ['model'],
  async run(config, context) {
    const path = (name: string): string => resolve(context.cwd, name)
    const { dtype, tokenizer } = config
    const parity = await importLlama2c(path(config.model), path(config.out), {
      dtype,
      compareModels: compareGreedily(config.checkTokens, context),
      ...(tokenizer !== undefined && { tokenizer: path(tokenizer) }),
    })
    context.log(paritySentence(config.out, parity))
  },
})
