// Decoding a Llama of 1.1 B parameters (grouped queries, bf16) on a GPU: tokens/s and the share of the byte roof, that of
// reading every weight and the cache once a step at 3.0 TB/s, which an H100 reaches in practice. Beside it, in the same
// run, Hugging Face generate with a static cache (bench/gpu/hf_decode.py), where Python has it.
//   node bench/gpu/decode.ts [--points 1x128,64x2048] [--steps 64] [--plain] [--peer]
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { BatchDecoder } from '../../src/infer/batch-decoder.ts'
import { Llama, type LlamaConfig } from '../../src/models/llama.ts'
import { materialize, parameterCount } from '../../src/nn/module.ts'
import { openDevice } from '../../src/open.ts'

const ROOF_BYTES_PER_SECOND = 3.0e12
const CONFIG: LlamaConfig = {
  modelType: 'llama',
  vocabSize: 32000,
  hiddenSize: 2048,
  intermediateSize: 5632,
  numHiddenLayers: 22,
  numAttentionHeads: 32,
  numKeyValueHeads: 4,
  headDim: 64,
  maxPositionEmbeddings: 4096,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  tieWordEmbeddings: false,
  initializerRange: 0.02,
}

const { values } = parseArgs({
  options: {
    /** Batch x context. */
    points: { type: 'string', default: '1x128,1x2048,8x128,8x2048,64x128,64x2048' },
    steps: { type: 'string', default: '64' },
    /** Also through the model's forward, kernel by kernel. */
    plain: { type: 'boolean', default: false },
    peer: { type: 'boolean', default: false },
  },
})
const device = await openDevice('cuda', { precision: 'bf16' })
const model = new Llama(CONFIG)
materialize(model, device, { seed: 1, isTrained: false })
const embeddingRows = CONFIG.vocabSize * CONFIG.hiddenSize
const weightBytes = 2 * (parameterCount(model) - embeddingRows)
console.log(`${device.card.name}: ${(parameterCount(model) / 1e6).toFixed(0)} M parameters`)

for (const usesProgram of values.plain ? [true, false] : [true]) {
  for (const point of values.points.split(',')) {
    const [batchSize, context] = point.split('x').map(Number) as [number, number]
    const steps = Number(values.steps)
    const half = steps / 2
    const decoder = new BatchDecoder(model, device, { batchSize, capacity: context + half + 2, usesProgram })
    // The middle of the steps has the context that is named.
    const prompts = Array.from({ length: batchSize }, (_, b) =>
      Array.from({ length: context - half }, (_, i) => (i * 7919 + b * 104729) % CONFIG.vocabSize),
    )
    await decoder.generate(prompts, { maxNewTokens: 4 })
    const runs = []
    for (let run = 0; run < 3; run++) runs.push(await decoder.generate(prompts, { maxNewTokens: steps + 1 }))
    const { seconds, promptSeconds } = runs.sort((a, b) => a.seconds - b.seconds)[1]!
    const cacheBytes =
      2 * 2 * batchSize * (context + 1) * CONFIG.numKeyValueHeads * CONFIG.headDim * CONFIG.numHiddenLayers
    const roof = (weightBytes + batchSize * 2 * CONFIG.hiddenSize + cacheBytes) / ROOF_BYTES_PER_SECOND
    const step = seconds / steps
    console.log(
      `batch ${batchSize}, context ${context}, ${decoder.hasProgram ? 'one program' : 'kernel by kernel'}: ${(1000 * step).toFixed(3)} ms a step, ${(batchSize / step).toFixed(0)} tok/s, ${((100 * roof) / step).toFixed(1)} % of the byte roof (${(1000 * roof).toFixed(3)} ms); prompts ${(1000 * promptSeconds).toFixed(0)} ms`,
    )
    decoder.close()
  }
}
device.close()

if (values.peer) {
  const script = join(import.meta.dirname, 'hf_decode.py')
  spawnSync('python3', [script, ...values.points.split(',')], { stdio: 'inherit' })
}
