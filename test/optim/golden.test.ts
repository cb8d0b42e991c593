// The update rules against torch.optim (AdamW, Adam, SGD, Muon) and against formulas (Lion, Muon) in float64, on the
// noisy quadratics of tools/make-golden.py: the weights after 1, 2, 3 and 10 steps, on every device.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, describe, test } from 'node:test'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import { hfTensors } from '../../src/checkpoint/hf.ts'
import type { Device } from '../../src/core/device.ts'
import { Embedding, Linear } from '../../src/nn/linear.ts'
import { materialize } from '../../src/nn/module.ts'
import { RmsNorm } from '../../src/nn/norm.ts'
import { type AdamConfig, adam, adamw } from '../../src/optim/adam.ts'
import { muon } from '../../src/optim/muon.ts'
import { Optimizer, type UpdateRule } from '../../src/optim/optimizer.ts'
import { lion, sgd } from '../../src/optim/simple.ts'
import { type DeviceUnderTest, devicesUnderTest } from '../devices.ts'
import { gradientViews } from '../golden/fixture.ts'
import { valuesOf } from '../ops/harness.ts'

interface Quadratic {
  shape: number[]
  start: number[]
  center: number[]
  curvature: number[]
  /** [steps, ...shape] */
  noise: number[]
}

type RunOptions = AdamConfig & { momentum?: number; nesterov?: boolean }

interface OptimizerGolden {
  lr: number
  problem: Record<string, Quadratic>
  runs: Record<string, { options: RunOptions; gradClip: number; weights: Record<string, Record<string, number[]>> }>
}

const golden = JSON.parse(
  readFileSync(new URL('../golden/optimizers.json', import.meta.url), 'utf8'),
) as OptimizerGolden

/**
 * Of a whole tensor (norm). The reference would notice that PyTorch clips by maxNorm / (norm + 1e-6), and that its Muon
 * divides by max(norm, 1e-7) where Jordan's divides by norm + 1e-7.
 */
const ALLOWED = { f64: 1e-13, f32: 1e-6 }
const ALLOWED_F64: Record<string, number> = { 'adamw clipped': 1e-6, 'sgd clipped': 1e-6, 'muon of torch': 1e-8 }

const RULES: Record<string, (options: RunOptions) => UpdateRule> = { adamw, adam, sgd, lion, muon }

/** A model that never runs: one layer with two fused matrices, a tall one and a norm, and an embedding. */
function makeModel() {
  const init = 'zeros'
  const layer = {
    mlp: {
      gateUpProj: new Linear(5, { gateProj: 3, upProj: 6 }, { init }),
      downProj: new Linear(3, { downProj: 7 }, { init }),
    },
    norm: new RmsNorm('norm', 4, 1e-5),
  }
  return { model: { layers: new Map([[0, layer]]), embedTokens: new Embedding('embedTokens', 6, 3, init) } }
}

type Values = Map<string, Float64Array>

/** Minimises the quadratics; `onStep` sees the weights after each step. */
async function minimize(
  device: Device,
  rule: UpdateRule,
  settings: { lr: number; gradClip: number; steps: number },
  onStep: (step: number, weights: Values) => void,
): Promise<void> {
  const model = makeModel()
  const optimizer = new Optimizer(materialize(model, device), rule)
  const tensors = hfTensors(model)
  assert.deepEqual(tensors.map(({ name }) => name).sort(), Object.keys(golden.problem).sort())
  for (const { name, view } of tensors) device.write(view, golden.problem[name]!.start)
  const gradients = gradientViews(model)
  for (let step = 1; step <= settings.steps; step++) {
    optimizer.begin(1)
    for (const { name, view, parameter } of tensors) {
      const { center, curvature, noise } = golden.problem[name]!
      const weights = await valuesOf(view)
      const offset = (step - 1) * weights.length
      device.write(
        gradients.get(name)!,
        weights.map((w, i) => curvature[i]! * (w - center[i]!) + noise[offset + i]!),
      )
      parameter.hasGradient = true
    }
    optimizer.step({ lr: settings.lr, gradClip: settings.gradClip, step })
    const weights: Values = new Map()
    for (const { name, view } of tensors) weights.set(name, await valuesOf(view))
    onStep(step, weights)
  }
}

function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  assert.equal(actual.length, expected.length)
  let errors = 0
  let total = 0
  for (let i = 0; i < expected.length; i++) {
    errors += (actual[i]! - expected[i]!) ** 2
    total += expected[i]! ** 2
  }
  return Math.sqrt(errors / total)
}

function allowedFor(run: string, precision: 'f32' | 'f64'): number {
  return (precision === 'f64' ? ALLOWED_F64[run] : undefined) ?? ALLOWED[precision]
}

const devices: DeviceUnderTest[] = [
  ...(await devicesUnderTest()),
  { name: 'reference', device: openReferenceDevice(), precision: 'f64', close: () => {} },
]

after(() => {
  for (const entry of devices) if ('device' in entry) entry.close()
})

for (const entry of devices) {
  describe(entry.name, () => {
    if ('skip' in entry) {
      test('update rules', { skip: entry.skip })
      return
    }
    for (const [run, { options, gradClip, weights: expected }] of Object.entries(golden.runs)) {
      test(run, async (context) => {
        let worst = 0
        const compared: number[] = []
        const rule = RULES[run.split(' ')[0]!]!(options)
        await minimize(entry.device, rule, { lr: golden.lr, gradClip, steps: 10 }, (step, weights) => {
          if (expected[step] === undefined) return
          compared.push(step)
          for (const [name, values] of Object.entries(expected[step])) {
            const error = relativeError(weights.get(name)!, values)
            const allowed = allowedFor(run, entry.precision)
            assert.ok(error <= allowed, `${name} after step ${step} differs by ${error.toExponential(2)}`)
            worst = Math.max(worst, error)
          }
        })
        assert.deepEqual(compared, [1, 2, 3, 10])
        context.diagnostic(`${entry.name}, ${run}: largest relative error ${worst.toExponential(1)}`)
      })
    }
  })
}

test('a clipped run is not the run without clipping', () => {
  for (const [clipped, plain] of [
    ['adamw clipped', 'adamw'],
    ['sgd clipped', 'sgd'],
  ] as const) {
    const [a, b] = [golden.runs[clipped]!, golden.runs[plain]!].map(({ weights }) =>
      Object.values(weights['10']!).flat(),
    )
    assert.ok(relativeError(a!, b!) > 1e-3)
  }
})
