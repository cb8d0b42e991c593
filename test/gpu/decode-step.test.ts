// A GPU's own program for a decoding step against the model's forward, kernel by kernel: the same logits to the
// precision of the device, from caches of different lengths, and the same state afterwards.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { bfloatToFloat, halfToFloat } from '../../src/checkpoint/half.ts'
import { emptyTensor, standaloneTensor } from '../../src/core/allocator.ts'
import type { Device } from '../../src/core/device.ts'
import { Tape } from '../../src/core/tape.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { BatchDecoder } from '../../src/infer/batch-decoder.ts'
import { Llama, type LlamaConfig } from '../../src/models/llama.ts'
import { BatchCache } from '../../src/nn/kv-cache.ts'
import { materialize } from '../../src/nn/module.ts'
import { linear } from '../../src/ops/linear.ts'
import { openGpu } from './gpu.ts'

const BASE: LlamaConfig = {
  modelType: 'llama',
  vocabSize: 1003,
  hiddenSize: 1024,
  intermediateSize: 1536,
  numHiddenLayers: 3,
  numAttentionHeads: 16,
  numKeyValueHeads: 2,
  headDim: 64,
  maxPositionEmbeddings: 1024,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  tieWordEmbeddings: false,
  initializerRange: 0.03,
}
const BATCHES = [1, 5, 8, 9, 12, 16, 27, 33, 64]
/** Attention over long caches is split over blocks, over those of 200 positions it is not. */
const MODELS: Readonly<Record<string, { config: LlamaConfig; capacity: number; batches?: readonly number[] }>> = {
  'groups of 8': { config: BASE, capacity: 640 },
  'no groups, tied head': {
    config: { ...BASE, numKeyValueHeads: 16, tieWordEmbeddings: true, vocabSize: 1024 },
    capacity: 200,
  },
  'groups of 16, heads of 128': {
    config: {
      ...BASE,
      hiddenSize: 2048,
      numAttentionHeads: 16,
      numKeyValueHeads: 1,
      headDim: 128,
      numHiddenLayers: 2,
    },
    capacity: 640,
  },
  // A block's quarter of the inputs is more than its shared memory keeps, for products of several tiles too.
  'inputs that stream': {
    config: {
      ...BASE,
      hiddenSize: 2560,
      intermediateSize: 4608,
      numAttentionHeads: 40,
      numKeyValueHeads: 8,
      numHiddenLayers: 2,
      vocabSize: 9000,
    },
    capacity: 300,
    batches: [3, 9, 20, 64],
  },
  // Pairs of gate and up are too many for a block to have them by itself.
  'wide feed-forward': {
    config: { ...BASE, intermediateSize: 9216, numHiddenLayers: 2 },
    capacity: 200,
    batches: [40],
  },
  // Some blocks have no part in most products, and some warps no inputs to look at.
  'width 512, 8 layers': {
    config: { ...BASE, hiddenSize: 512, numAttentionHeads: 8, numKeyValueHeads: 1, numHiddenLayers: 8 },
    capacity: 200,
    batches: [2, 12, 33, 44],
  },
  // Roundings of a stream that is added to again and again add up.
  '16 layers': { config: { ...BASE, numHiddenLayers: 16 }, capacity: 200, batches: [4, 24, 64] },
}

async function floatsOf(device: Device, tensor: Tensor): Promise<Float32Array> {
  const values = await device.read(tensor)
  if (!(values instanceof Uint16Array)) return Float32Array.from(values)
  const floats = new Float32Array(values.length)
  if (tensor.dtype === 'bf16') bfloatToFloat(floats, values)
  else halfToFloat(floats, values)
  return floats
}

const normOf = (values: Float32Array): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))

/** A cache that has read prompts of which `lengths` tokens count: what lies behind must not matter. */
function filledCache(model: Llama, device: Device, lengths: readonly number[], capacity: number): BatchCache {
  const { numHiddenLayers, numKeyValueHeads, headDim, vocabSize } = model.shape
  const batch = lengths.length
  const width = Math.max(...lengths)
  const cache = new BatchCache(device, numHiddenLayers, numKeyValueHeads * headDim, batch, capacity)
  using _ = new Tape(device, { record: false })
  const tokens = emptyTensor(device, [batch, width], 'i32')
  const positions = emptyTensor(device, [batch, width], 'i32')
  device.write(
    tokens,
    Int32Array.from({ length: batch * width }, (_, i) => (i * i * 7 + 3 * i) % vocabSize),
  )
  device.write(
    positions,
    Int32Array.from({ length: batch * width }, (_, i) => i % width),
  )
  model.forward({ tokens, positions, cache: cache.prompts(0, batch) })
  device.write(cache.lengths, lengths)
  return cache
}

function integers(device: Device, ...shape: number[]): Tensor {
  const tensor = standaloneTensor(device, shape, 'i32')
  device.write(tensor, new Int32Array(tensor.size))
  return tensor
}

for (const precision of ['bf16', 'f16'] as const) {
  const gpu = await openGpu({ precision })
  describe(`decoding step, ${precision}`, { skip: 'skip' in gpu && gpu.skip }, () => {
    if ('skip' in gpu) return
    const { device } = gpu
    after(() => device.close())
    for (const [name, { config, capacity, batches = BATCHES }] of Object.entries(MODELS)) {
      const model = new Llama(config)
      materialize(model, device, { seed: 5, isTrained: false })
      for (const batch of batches) {
        test(`${name}, ${batch} sequences`, async (t) => {
          const lengths = Array.from({ length: batch }, (_, b) =>
            b === 0 ? capacity - 2 : (b * 97) % (capacity - 110),
          )
          const first = Int32Array.from({ length: batch }, (_, b) => (b * 131 + 7) % config.vocabSize)
          const [cache, plainCache] = [0, 1].map(() => filledCache(model, device, lengths, capacity)) as [
            BatchCache,
            BatchCache,
          ]
          const state = () => ({
            tokens: integers(device, batch),
            history: integers(device, 4, batch),
            made: integers(device, 1),
          })
          const [own, plain] = [state(), state()]
          for (const { tokens } of [own, plain]) device.write(tokens, first)
          const logits = standaloneTensor(device, [batch, config.vocabSize], 'f32')
          const { keys, values } = cache
          const step = device.decodeStep({
            weights: model.llamaWeights(),
            keys,
            values,
            lengths: cache.lengths,
            logits,
            ...own,
          })
          if (step === undefined) return t.skip('this card has no program for such a batch')
          for (let n = 0; n < 2; n++) {
            step()
            using _ = new Tape(device, { record: false })
            const hidden = model.forward({
              tokens: plain.tokens.reshape(batch, 1),
              positions: plainCache.lengths.reshape(batch, 1),
              cache: plainCache.next(),
            })
            const expected = linear(hidden.reshape(batch, config.hiddenSize), model.headWeight)
            device.kernels.greedyToken(plain.tokens, plainCache.lengths, plain.history, plain.made, expected, capacity)
            const [a, b] = [await floatsOf(device, logits), await floatsOf(device, expected)]
            const norm = normOf(b)
            const difference = normOf(a.map((value, i) => value - b[i]!))
            // Two roundings of the same numbers, layer after layer.
            assert.ok(difference / norm < (precision === 'bf16' ? 2e-2 : 3e-3), `step ${n}: ${difference / norm}`)
            assert.deepEqual([...(await device.read(own.tokens))], rowsArgmax(a, batch))
            assert.deepEqual(await device.read(cache.lengths), await device.read(plainCache.lengths))
            device.write(plain.tokens, await device.read(own.tokens))
          }
          assert.deepEqual([...(await device.read(own.made))], [2])
          const history = await device.read(own.history)
          assert.deepEqual([...history.subarray(batch, 2 * batch)], [...(await device.read(own.tokens))])
        })
      }
    }

    test('what is no number in the stream shows in all logits', async (t) => {
      for (const batch of [2, 12, 40]) {
        const model = new Llama(BASE)
        materialize(model, device, { seed: 5, isTrained: false })
        const { keys, values, lengths } = filledCache(model, device, new Array(batch).fill(3), 100)
        const weights = model.llamaWeights()
        const { down } = weights.layers[1]!
        const elements = await device.read(down)
        elements[5] = precision === 'bf16' ? 0x7fc0 : 0x7e00
        device.write(down, elements)
        const logits = standaloneTensor(device, [batch, BASE.vocabSize], 'f32')
        const state = {
          tokens: integers(device, batch),
          history: integers(device, 1, batch),
          made: integers(device, 1),
        }
        const step = device.decodeStep({ weights, keys, values, lengths, logits, ...state })
        if (step === undefined) return t.skip('this card has no program for such a batch')
        step()
        const numbers = (await floatsOf(device, logits)).filter((logit) => !Number.isNaN(logit))
        assert.equal(numbers.length, 0, `${batch} sequences`)
      }
    })

    test('a batch decoder gives the same bits in every run', async () => {
      const model = new Llama(BASE)
      materialize(model, device, { seed: 5, isTrained: false })
      for (const batchSize of [3, 20, 40]) {
        const prompts = Array.from({ length: batchSize }, (_, b) =>
          Array.from({ length: 20 + b }, (_, i) => (i * b) % 900),
        )
        const decoder = new BatchDecoder(model, device, { batchSize, capacity: 256 })
        const once = await decoder.generate(prompts, { maxNewTokens: 100 })
        const again = await decoder.generate(prompts, { maxNewTokens: 100 })
        assert.deepEqual(again.tokenIds, once.tokenIds)
      }
    })
  })
}

function rowsArgmax(logits: Float32Array, rows: number): number[] {
  const width = logits.length / rows
  return Array.from({ length: rows }, (_, r) => {
    const row = logits.subarray(r * width, (r + 1) * width)
    return row.indexOf(row.reduce((a, b) => Math.max(a, b)))
  })
}
