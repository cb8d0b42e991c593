// How fast runs of a sweep are here: a few real steps of a small model, so that a budget in minutes becomes one in FLOPs.
// On a processor its own time is measured, which other programs do not lengthen: the same sweep on a loaded machine.

import type { Device } from '../../core/device.ts'
import type { TokenDataset } from '../../data/dataset.ts'
import { type Numerics, Pretraining } from '../../train/pretrain.ts'
import type { RunSettings } from '../../train/settings.ts'
import { modelConfig } from '../../train/settings.ts'
import { flopsPerToken, type SweepSetting } from './run-spec.ts'
import type { ModelShape } from './shapes.ts'

const [WARM_STEPS, TIMED_STEPS] = [8, 60]
/** A batch as the searches find it. */
const ROWS = 5

/**
 * FLOPs of a second: on a CPU of processor time, on a card of the clock.
 * @param device  as a run of the sweep has it
 */
export async function measureRate(
  device: Device,
  dataset: TokenDataset,
  shape: ModelShape,
  setting: SweepSetting,
  numerics: Numerics,
): Promise<number> {
  const { seqLen, seed } = setting
  const { bosTokenId, eosTokenId, tokenizer } = dataset.manifest
  const ids = { bosTokenId: bosTokenId ?? undefined, eosTokenId: eosTokenId ?? undefined }
  const settings = settingsOf(shape, seqLen, seed)
  const training = await Pretraining.open({
    device,
    settings,
    config: modelConfig(settings.model, { vocabSize: tokenizer.vocabSize, ...ids }),
    dataset,
    tokenizerFiles: {},
    numerics,
  })
  for (let step = 0; step < WARM_STEPS; step++) await training.trainStep()
  const seconds = device.name === 'cpu' ? processorSeconds : () => performance.now() / 1000
  const before = seconds()
  for (let step = 0; step < TIMED_STEPS; step++) await training.trainStep()
  const taken = seconds() - before
  training.step.close()
  return (flopsPerToken(shape, setting) * settings.batchTokens * TIMED_STEPS) / taken
}

function processorSeconds(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

function settingsOf(shape: ModelShape, seqLen: number, seed: number): RunSettings {
  return {
    model: {
      family: 'llama',
      ...shape,
      numKeyValueHeads: shape.numAttentionHeads,
      maxPositionEmbeddings: seqLen,
      tieWordEmbeddings: true,
    },
    seqLen,
    batchTokens: ROWS * seqLen,
    microBatchSize: ROWS,
    packing: 'packed',
    seed,
    dropout: 0,
    recompute: 'none',
    optimizer: { kind: 'muon', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.95 },
    schedule: { kind: 'constant', lr: 1e-3, minLr: 1e-3, warmupSteps: 0, maxSteps: 1000, decayFraction: 0 },
    gradClip: 1,
  }
}
