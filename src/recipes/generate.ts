// trainyard generate: continues a prompt, streaming.
import { resolve } from 'node:path'
import { z } from 'zod'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { DecodingSession, generate } from '../infer/generate.ts'
import { loadModel, promptIds } from '../infer/load.ts'
import { inferenceDeviceFields, openChosenDevice } from './device-fields.ts'
import { samplingFields, samplingOf } from './sampling-fields.ts'

export default defineRecipe({
  name: 'generate',
  summary: 'continue a prompt with a trained model',
  description:
    'Takes a run, a checkpoint or a Hugging Face folder. The text streams as it is made; --json gives one object a sample instead, with token ids and the reason it ended.',
  examples: [
    { command: 'generate runs/books --prompt "The people of"', does: 'continue a prompt' },
    { command: 'generate models/stories260K --temperature 0 --max-new-tokens 200', does: 'the most likely story' },
  ],
  config: z.object({
    model: field(z.string().min(1), { describe: 'run, checkpoint or Hugging Face folder', example: 'runs/books' }),
    prompt: field(z.string().default(''), { describe: 'text to continue; empty starts a document' }),
    numSamples: field(z.number().int().min(1).default(1), {
      describe: 'continuations to make; each has the next seed',
    }),
    ignoreEos: field(z.boolean().default(false), { describe: 'go on after the end-of-text token' }),
    json: field(z.boolean().default(false), { describe: 'print a JSON object a sample' }),
    ...samplingFields,
    ...inferenceDeviceFields,
  }),
  positional: ['model'],
  async run(options, context) {
    const device = await openChosenDevice(options, context.env)
    const { model, tokenizer, warnings } = await loadModel(resolve(context.cwd, options.model), device)
    for (const warning of warnings) context.warn(warning)
    const prompt = promptIds(tokenizer, options.prompt)
    const session = new DecodingSession(model, device)
    for (let sample = 0; sample < options.numSamples; sample++) {
      session.truncate(0)
      if (!options.json) context.write(options.prompt)
      const result = await generate(
        session,
        tokenizer,
        prompt,
        {
          sampling: { ...samplingOf(options), seed: options.seed + sample },
          maxNewTokens: options.maxNewTokens,
          stop: options.stop,
          ignoreEos: options.ignoreEos,
          signal: context.signal,
          turn: () => context.turn(),
        },
        (piece) => {
          if (!options.json) context.write(piece)
        },
      )
      if (options.json) context.log(JSON.stringify({ prompt: options.prompt, ...result }))
      else context.write(sample + 1 < options.numSamples ? '\n\n---\n\n' : '\n')
      if (context.signal.aborted) break
    }
  },
})
