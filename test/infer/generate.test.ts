// Decoding with a cache computes what the whole forward computes, in chunks or token by token, and a published model
// gives its published text.
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { importLlama2c } from '../../src/checkpoint/convert.ts'
import { loadHfWeights } from '../../src/checkpoint/hf.ts'
import { createModel, readHfConfig } from '../../src/checkpoint/hf-config.ts'
import { tensorFrom } from '../../src/core/allocator.ts'
import { Tape } from '../../src/core/tape.ts'
import { DecodingSession } from '../../src/infer/generate.ts'
import { argmax } from '../../src/infer/sampler.ts'
import { materialize } from '../../src/nn/module.ts'
import { openDevice } from '../../src/open.ts'
import { linear } from '../../src/ops/linear.ts'
import { modelConfig, modelFromDepth } from '../../src/train/settings.ts'
import { temporaryFolder } from '../data/fixtures.ts'

const MODELS = join(import.meta.dirname, '../../../shared/data/models')

for (const family of ['llama', 'gpt2'] as const) {
  test(`${family}: cached logits equal those of the whole forward at every position`, async () => {
    const device = await openDevice('cpu', { threads: 2 })
    const settings = modelFromDepth(2, 64, {
      family,
      hiddenSize: 48,
      numAttentionHeads: 4,
      ...(family === 'llama' && { numKeyValueHeads: 2 }),
    })
    const vocabSize = 71
    const model = createModel(modelConfig(settings, { vocabSize }))
    materialize(model, device, { seed: 3 })
    const T = 41
    const ids = Array.from({ length: T }, (_, i) => (i * i * 7 + 3) % vocabSize)
    const whole: Float32Array[] = []
    {
      using _ = new Tape(device, { record: false })
      const tokens = tensorFrom(device, [1, T], ids, 'i32')
      const positions = tensorFrom(
        device,
        [1, T],
        Array.from({ length: T }, (_, i) => i),
        'i32',
      )
      const logits = await device.read(linear(model.forward({ tokens, positions }), model.headWeight))
      for (let t = 0; t < T; t++) whole.push(Float32Array.from(logits.subarray(t * vocabSize, (t + 1) * vocabSize)))
    }
    // Chunks of one (decoding), of a few (few-row kernels), and larger than a tile.
    for (const chunk of [1, 3, 17, T]) {
      const session = new DecodingSession(model, device)
      for (let from = 0; from < T; from += chunk) {
        const logits = await session.append(ids.slice(from, from + chunk))
        const expected = whole[Math.min(T, from + chunk) - 1]!
        const scale = Math.max(...expected.map(Math.abs))
        const worst = Math.max(...logits.map((value, i) => Math.abs(value - expected[i]!)))
        assert.ok(worst <= 1e-5 * scale, `chunk ${chunk} at ${from}: ${worst / scale}`)
      }
      // A cache cut back goes on as if the rest had never been.
      session.truncate(10)
      const again = await session.append([ids[10]!])
      const worst = Math.max(...again.map((value, i) => Math.abs(value - whole[10]![i]!)))
      assert.ok(worst <= 1e-4, `after truncation: ${worst}`)
    }
    device.close()
  })
}

test('stories260K gives its published text token for token', async (t) => {
  if (!existsSync(MODELS)) return t.skip('../shared/data/models is not here')
  const device = await openDevice('cpu', { threads: 2 })
  const folder = join(temporaryFolder(), 'stories')
  await importLlama2c(join(MODELS, 'stories260K.bin'), folder, { tokenizer: join(MODELS, 'tok512.bin'), dtype: 'f32' })
  const model = createModel(readHfConfig(folder))
  materialize(model, device)
  loadHfWeights(model, folder)
  const session = new DecodingSession(model, device)
  const ids: number[] = []
  let next = 1
  // run.c's 200 steps: the start token goes in first, 200 tokens come out, and a second start token would end it.
  for (let step = 0; step < 200 && (step === 0 || next !== 1); step++) {
    next = argmax(await session.append([next]))
    ids.push(next)
  }
  const pieces = JSON.parse(readFileSync(join(folder, 'tokenizer.json'), 'utf8')).model.vocab as Record<string, number>
  const byId = new Map(Object.entries(pieces).map(([piece, id]) => [id, piece]))
  const text = ids
    .map((id) => byId.get(id)!)
    .join('')
    .replaceAll('\u2581', ' ')
    .replace(/<0x([0-9A-F]{2})>/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
  const expected = readFileSync(join(MODELS, 'stories260K-greedy-200-steps.txt'), 'utf8')
  assert.equal(text.replace(/^ /, ''), expected.trimEnd())
  device.close()
})
