// The options of sampling, shared by generate and chat.
import { z } from 'zod'
import { field } from '../config/field.ts'
import type { SamplingConfig } from '../infer/sampler.ts'

export const samplingFields = {
  maxNewTokens: field(z.number().int().min(1).default(200), { describe: 'longest continuation', unit: 'tokens' }),
  temperature: field(z.number().min(0).default(0.8), {
    describe: 'flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the most likely token',
  }),
  topK: field(z.number().int().min(0).default(0), { describe: 'keep the k most likely tokens; 0 keeps all' }),
  topP: field(z.number().gt(0).max(1).default(1), { describe: 'keep the likeliest tokens with this much probability' }),
  minP: field(z.number().min(0).max(1).default(0), { describe: 'keep tokens this likely relative to the likeliest' }),
  repetitionPenalty: field(z.number().positive().default(1), { describe: 'above 1: seen tokens become less likely' }),
  seed: field(z.number().int().min(0).default(0), { describe: 'the same seed gives the same text' }),
  stop: field(z.array(z.string().min(1)).default([]), { describe: 'texts that end the continuation', example: '###' }),
}

/** The sampler's part of a recipe's options. */
export function samplingOf(options: SamplingConfig): SamplingConfig {
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = options
  return { temperature, topK, topP, minP, repetitionPenalty, seed }
}
