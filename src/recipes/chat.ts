// trainyard chat: a prompt at the terminal. A base model knows no roles: it continues the transcript of what was typed
// and what it wrote. Chat templates come with fine-tuning.
import { resolve } from 'node:path'
import { z } from 'zod'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { loadModel } from '../infer/load.ts'
import { completionPrompt } from '../infer/prompt-loop.ts'
import { inferenceDeviceFields, openChosenDevice } from './device-fields.ts'
import { samplingFields, samplingOf } from './sampling-fields.ts'

export default defineRecipe({
  name: 'chat',
  summary: 'talk to a trained model at a prompt',
  description:
    'Type the beginning of a text and the model goes on; the next line goes on from there. An empty line starts anew, Ctrl-C ends a reply, Ctrl-D leaves. A base model continues text, it does not answer questions.',
  examples: [{ command: 'chat runs/books --temperature 0.7', does: 'open a prompt' }],
  config: z.object({
    model: field(z.string().min(1), { describe: 'run, checkpoint or Hugging Face folder', example: 'runs/books' }),
    ...samplingFields,
    ...inferenceDeviceFields,
  }),
  positional: ['model'],
  async run(options, context) {
    const device = await openChosenDevice(options, context.env)
    const loaded = await loadModel(resolve(context.cwd, options.model), device)
    for (const warning of loaded.warnings) context.warn(warning)
    await completionPrompt(loaded, device, context, {
      sampling: samplingOf(options),
      maxNewTokens: options.maxNewTokens,
      stop: options.stop,
    })
  },
})
