// Decoding several sequences at once gives each the tokens that it gets alone, whatever the others do; a device's own
// program for the step gives what the model's forward gives.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createModel } from '../../src/checkpoint/hf-config.ts'
import type { Device } from '../../src/core/device.ts'
import { ConfigError } from '../../src/core/errors.ts'
import { BatchDecoder } from '../../src/infer/batch-decoder.ts'
import { DecodingSession } from '../../src/infer/generate.ts'
import { GREEDY, Sampler, type SamplingConfig } from '../../src/infer/sampler.ts'
import type { DecoderModel } from '../../src/models/decoder.ts'
import { materialize } from '../../src/nn/module.ts'
import { openDevice } from '../../src/open.ts'
import { modelConfig, modelFromDepth } from '../../src/train/settings.ts'

const VOCAB = 71
const FAMILIES = ['llama', 'gpt2'] as const

function smallModel(family: (typeof FAMILIES)[number], device: Device): DecoderModel {
  const settings = modelFromDepth(2, 96, {
    family,
    hiddenSize: 48,
    numAttentionHeads: 4,
    ...(family === 'llama' && { numKeyValueHeads: 2 }),
  })
  const model = createModel(modelConfig(settings, { vocabSize: VOCAB }))
  materialize(model, device, { seed: 3 })
  return model
}

const prompts = [1, 17, 5, 40].map((length, b) => Array.from({ length }, (_, i) => (i * i * 7 + 3 * b + 1) % VOCAB))

async function alone(
  model: DecoderModel,
  device: Device,
  prompt: readonly number[],
  count: number,
  sampling: SamplingConfig,
): Promise<number[]> {
  const session = new DecodingSession(model, device)
  const sampler = new Sampler(sampling)
  const ids: number[] = []
  let logits = await session.append(prompt)
  while (ids.length < count) {
    ids.push(sampler.next(logits, [...prompt, ...ids]))
    if (ids.length < count) logits = await session.append([ids[ids.length - 1]!])
  }
  return ids
}

for (const family of FAMILIES) {
  test(`${family}: each sequence of a batch gets the tokens that it gets alone`, async () => {
    const device = await openDevice('cpu', { threads: 2 })
    const model = smallModel(family, device)
    const decoder = new BatchDecoder(model, device, { batchSize: 4, capacity: 96 })
    // More than one look at the history; then again from the start, over what the cache holds by now.
    for (const count of [50, 3, 1]) {
      const { tokenIds, steps } = await decoder.generate(prompts, { maxNewTokens: count })
      assert.equal(steps, count - 1)
      for (const [b, prompt] of prompts.entries()) {
        assert.deepEqual(
          tokenIds[b],
          await alone(model, device, prompt, count, GREEDY),
          `sequence ${b}, ${count} tokens`,
        )
      }
    }
    device.close()
  })

  test(`${family}: sampled sequences draw from streams of their own`, async () => {
    const device = await openDevice('cpu', { threads: 2 })
    const model = smallModel(family, device)
    const decoder = new BatchDecoder(model, device, { batchSize: 4, capacity: 60 })
    const sampling = { ...GREEDY, temperature: 1, topP: 0.9, repetitionPenalty: 1.2, seed: 11 }
    const { tokenIds } = await decoder.generate(prompts, { maxNewTokens: 12, sampling })
    for (const [b, prompt] of prompts.entries()) {
      assert.deepEqual(tokenIds[b], await alone(model, device, prompt, 12, { ...sampling, seed: 11 + b }))
    }
    device.close()
  })
}

test('a sequence ends before the end-of-text token, the others go on', async () => {
  const device = await openDevice('cpu', { threads: 2 })
  const model = smallModel('llama', device)
  const decoder = new BatchDecoder(model, device, { batchSize: 4, capacity: 96 })
  const all = await decoder.generate(prompts, { maxNewTokens: 40 })
  const eosTokenId = all.tokenIds[1]![5]!
  const { tokenIds } = await decoder.generate(prompts, { maxNewTokens: 40, eosTokenId })
  for (const [b, ids] of all.tokenIds.entries()) {
    const end = ids.indexOf(eosTokenId)
    assert.deepEqual(tokenIds[b], end < 0 ? ids : ids.slice(0, end))
  }
  device.close()
})

test('what does not fit is refused', async () => {
  const device = await openDevice('cpu', { threads: 1 })
  const model = smallModel('llama', device)
  assert.throws(() => new BatchDecoder(model, device, { batchSize: 1, capacity: 97 }), ConfigError)
  const decoder = new BatchDecoder(model, device, { batchSize: 2, capacity: 8 })
  const expected = (message: RegExp) => (error: unknown) => error instanceof ConfigError && message.test(error.message)
  await assert.rejects(decoder.generate([[1]], { maxNewTokens: 1 }), expected(/expected 2 prompts/))
  await assert.rejects(decoder.generate([[1], []], { maxNewTokens: 1 }), expected(/an empty one/))
  await assert.rejects(decoder.generate([[1], [VOCAB]], { maxNewTokens: 1 }), expected(/got 71/))
  await assert.rejects(decoder.generate([[1], [1, 2]], { maxNewTokens: 8 }), expected(/do not fit in 8/))
  assert.equal((await decoder.generate([[1], [1, 2]], { maxNewTokens: 7 })).tokenIds[1]!.length, 7)
  device.close()
})
