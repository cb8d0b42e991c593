// What imports and exports share: source and artefact both continue a prompt on the CPU, and must say the same. Knows
// nothing about files.
import { z } from 'zod'
import { hfTensors } from '../checkpoint/hf.ts'
import { createModel } from '../checkpoint/hf-config.ts'
import type { CompareModels, StoredModel } from '../checkpoint/parity.ts'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { DeviceError } from '../core/errors.ts'
import { Tensor } from '../core/tensor.ts'
import { DecodingSession } from '../infer/generate.ts'
import { argmax } from '../infer/sampler.ts'
import { materialize, parameterCount } from '../nn/module.ts'
import { openDevice } from '../open.ts'

/** Above this, two models take longer than the copy they are to prove. */
const MAX_PARAMETERS = 200_000_000
const PROMPT_TOKENS = 8

export const checkTokens = field(z.int().min(0).default(64), {
  describe: 'greedy tokens that source and result are made to continue with, up to 200 M parameters; 0 leaves it out',
  unit: 'tokens',
})

/**
 * Compares models by their greedy tokens after a fixed prompt, one after the other on the CPU. The result is undefined
 * for large models, and where the CPU device cannot be opened, which is said as a warning.
 * @param tokens  to make after the prompt; fewer where the context ends. 0: nothing is compared
 */
export function compareGreedily(tokens: number, context: Pick<RunContext, 'env' | 'warn'>): CompareModels {
  return async (source, artefact) => {
    if (tokens === 0 || parameterCount(createModel(source.config)) > MAX_PARAMETERS) return undefined
    const { vocabSize, maxPositionEmbeddings } = source.config
    const promptTokens = Math.min(PROMPT_TOKENS, Math.ceil(maxPositionEmbeddings / 2))
    const prompt = Array.from({ length: promptTokens }, (_, i) => (7 * i * i + 3 * i + 11) % vocabSize)
    const count = Math.min(tokens, maxPositionEmbeddings - promptTokens + 1)
    try {
      const before = await continuation(source, prompt, count, context.env)
      const after = await continuation(artefact, prompt, count, context.env)
      const differing = before.findIndex((id, i) => id !== after[i])
      return { prompt, tokens: count, equalTokens: differing < 0 ? count : differing }
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error
      context.warn(`greedy tokens are not compared: ${error.message}`)
      return undefined
    }
  }
}

/** Each model has a device of its own, so that only one is in memory. */
async function continuation(
  stored: StoredModel,
  prompt: readonly number[],
  count: number,
  env: RunContext['env'],
): Promise<number[]> {
  const device = await openDevice('cpu', {}, env)
  try {
    const model = createModel(stored.config)
    materialize(model, device)
    for (const { name, view } of hfTensors(model)) {
      const { shape, storage, offset } = view
      device.write(new Tensor(shape, device.floatDtype, storage, { offset }), await stored.readTensor(name))
    }
    return await greedyTokens(new DecodingSession(model, device, prompt.length + count), prompt, count)
  } finally {
    device.close()
  }
}

/** The `count` most likely tokens that follow `prompt`, one after the other. */
export async function greedyTokens(
  session: DecodingSession,
  prompt: readonly number[],
  count: number,
): Promise<number[]> {
  const made: number[] = []
  let logits = await session.append(prompt)
  while (made.length < count) {
    const next = argmax(logits)
    made.push(next)
    if (made.length < count) logits = await session.append([next])
  }
  return made
}
