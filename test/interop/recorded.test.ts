// Folders as transformers wrote them (config.json and tensor names recorded, weights by formula), imported and run here:
// logits and 64 greedy tokens must be those that transformers recorded. `tools/check-transformers.py --record` made it.
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { convertHfFolder } from '../../src/checkpoint/convert.ts'
import { loadHfWeights } from '../../src/checkpoint/hf.ts'
import { createModel, readHfConfig } from '../../src/checkpoint/hf-config.ts'
import { tensorSource } from '../../src/checkpoint/safetensors-writer.ts'
import { writeWeightsFolder } from '../../src/checkpoint/weights-folder.ts'
import type { Device } from '../../src/core/device.ts'
import { sizeOf } from '../../src/core/tensor.ts'
import { DecodingSession } from '../../src/infer/generate.ts'
import { materialize } from '../../src/nn/module.ts'
import { greedyTokens } from '../../src/recipes/greedy-parity.ts'
import { devicesUnderTest } from '../devices.ts'
import { fixedWeights } from './fixed-weights.ts'

interface RecordedModel {
  config: Record<string, unknown>
  dtype: 'f32' | 'bf16'
  tensors: Record<string, number[]>
  /** After the last token of the prompt. */
  logits: number[]
  greedy: number[]
}

interface Recording {
  versions: Record<string, string>
  prompt: number[]
  models: Record<string, RecordedModel>
}

const MAX_DIFFERENCE = 1e-4
const recording: Recording = JSON.parse(readFileSync(join(import.meta.dirname, 'recorded.json'), 'utf8'))
const root = mkdtempSync(join(tmpdir(), 'trainyard-recorded-'))
const devices = await devicesUnderTest()
let folders = 0
let worst = 0

after(() => {
  for (const entry of devices) if ('device' in entry) entry.close()
  rmSync(root, { recursive: true })
  const { torch, transformers } = recording.versions
  console.log(
    `against transformers ${transformers} on torch ${torch}: logits differ by at most ${worst.toExponential(1)}`,
  )
})

/** The folder that transformers wrote, imported. `change` plants a fault in a tensor's values first. */
async function imported(
  { config, dtype, tensors }: RecordedModel,
  change: (name: string, values: Float32Array) => Float32Array = (_, values) => values,
): Promise<string> {
  const folder = join(root, String(folders++))
  mkdirSync(folder)
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  const sources = Object.entries(tensors).map(([name, shape]) =>
    tensorSource(name, dtype, shape, change(name, fixedWeights(name, sizeOf(shape)))),
  )
  await writeWeightsFolder(folder, sources)
  const parity = await convertHfFolder(folder, `${folder}-imported`)
  assert.deepEqual(parity.dtypes, [dtype])
  return `${folder}-imported`
}

async function outputs(
  folder: string,
  device: Device,
  tokens = 64,
): Promise<{ logits: Float32Array; greedy: number[] }> {
  const model = createModel(readHfConfig(folder))
  materialize(model, device)
  loadHfWeights(model, folder)
  const { prompt } = recording
  const logits = await new DecodingSession(model, device).append(prompt)
  return { logits, greedy: await greedyTokens(new DecodingSession(model, device), prompt, tokens) }
}

function largestDifference(actual: Float32Array, expected: readonly number[]): number {
  assert.equal(actual.length, expected.length)
  return Math.max(...expected.map((value, i) => Math.abs(value - actual[i]!)))
}

for (const entry of devices) {
  describe(entry.name, () => {
    for (const [kind, model] of Object.entries(recording.models)) {
      if ('skip' in entry) {
        test(kind, { skip: entry.skip })
        continue
      }
      test(kind, async () => {
        const { logits, greedy } = await outputs(await imported(model), entry.device)
        const difference = largestDifference(logits, model.logits)
        worst = Math.max(worst, difference)
        assert.ok(difference <= MAX_DIFFERENCE, `logits differ by ${difference}`)
        assert.equal(model.greedy.length, 64)
        assert.deepEqual(greedy, model.greedy)
      })
    }
  })
}

describe('the recording notices', () => {
  const usable = devices.find((entry) => 'device' in entry)!

  /** Rows of q in llama2.c's order: pairs of a head side by side. */
  function pairRows(values: Float32Array, headDim: number, columns: number): Float32Array {
    const out = new Float32Array(values.length)
    for (let row = 0; row * columns < values.length; row++) {
      const inHead = row % headDim
      const from = row - inHead + (inHead % 2) * (headDim / 2) + Math.floor(inHead / 2)
      out.set(values.subarray(from * columns, (from + 1) * columns), row * columns)
    }
    return out
  }

  function transposed(values: Float32Array): Float32Array {
    const side = Math.sqrt(values.length)
    return Float32Array.from(values, (_, i) => values[(i % side) * side + Math.floor(i / side)]!)
  }

  const faults: Record<string, { kind: string; change: (name: string, values: Float32Array) => Float32Array }> = {
    'the rotary order of llama2.c': {
      kind: 'llama',
      change: (name, values) => (name.endsWith('q_proj.weight') ? pairRows(values, 8, 64) : values),
    },
    'one transposed weight of a Llama': {
      kind: 'llama-untied',
      change: (name, values) => (name.endsWith('1.self_attn.o_proj.weight') ? transposed(values) : values),
    },
    'one transposed weight of a GPT-2': {
      kind: 'gpt2',
      change: (name, values) => (name.endsWith('1.attn.c_proj.weight') ? transposed(values) : values),
    },
  }
  for (const [what, { kind, change }] of Object.entries(faults)) {
    test(what, async () => {
      assert.ok('device' in usable)
      const model = recording.models[kind]!
      const { logits, greedy } = await outputs(await imported(model, change), usable.device)
      assert.ok(largestDifference(logits, model.logits) > 0.1)
      assert.notDeepEqual(greedy, model.greedy)
    })
  }
})
