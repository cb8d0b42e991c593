// The plan of a run in words and as JSON: parameters, FLOPs, memory, expected time.
import { formatBytes, formatCount, formatDuration, formatFlops, formatPercent } from '../display/format.ts'
import { loadAverage } from '../machine/processor.ts'
import { arenaBytes } from './plan.ts'
import type { Pretraining } from './pretrain.ts'
import { type DeviceRates, stepSeconds } from './step-time.ts'

/** What part of the peak a step is expected to reach where nothing more was measured. */
const EXPECTED_SHARE = 0.65
/** Load average above which a machine has other work than this program's start. */
export const IDLE_LOAD = 1

/** What was measured of a device before a run. */
export interface MeasuredSpeed {
  /** FLOP/s. */
  readonly peakFlops: number
  readonly rates?: DeviceRates
}

export function describePlan(
  training: Pretraining,
  maxSteps: number,
  { peakFlops, rates }: MeasuredSpeed,
): { lines: string[]; json: Record<string, unknown> } {
  const { plan, flopsPerStep, loader, memory } = training
  const { batchTokens } = training.settings
  const tokens = maxSteps * batchTokens
  const secondsPerStep =
    rates === undefined
      ? flopsPerStep / (EXPECTED_SHARE * peakFlops)
      : stepSeconds(plan, training.microBatchesPerStep, rates)
  const seconds = secondsPerStep * (maxSteps - training.stepsDone)
  const share = formatPercent(flopsPerStep / secondsPerStep / peakFlops)
  const epochs = (maxSteps / loader.stepsPerEpoch).toFixed(2)
  const staging = memory.stagingBytes === 0 ? '' : `copy for checkpoints ${formatBytes(memory.stagingBytes)}, `
  const isOnCard = memory.ownTotalBytes !== undefined
  const states = `parameters ${formatBytes(plan.parameterBytes)}, gradients ${formatBytes(plan.gradientBytes - plan.sharedGradientBytes)}, optimizer ${formatBytes(plan.optimizerBytes)}, activations ${formatBytes(arenaBytes(plan))}${plan.sharedGradientBytes > 0 ? ' (with gradients)' : ''}`
  const onDevice = memory.scratchBytes + plan.otherBytes
  const rest = memory.baseBytes + (isOnCard ? 0 : onDevice)
  const lines = [
    `plan: ${formatCount(plan.parameterCount)} parameters; ${formatCount(maxSteps)} steps of ${formatCount(batchTokens)} tokens = ${formatCount(tokens)} tokens (${epochs} epochs)`,
    `      ${(flopsPerStep * maxSteps).toExponential(2)} FLOPs counted op by op (6 N D: ${(6 * plan.parameterCount * tokens).toExponential(2)}); about ${formatDuration(seconds)} at ${share} of ${isOnCard ? "this card's" : "this machine's"} ${formatFlops(peakFlops)}${isOnCard ? '' : busyNote()}`,
    `      memory ${formatBytes(memory.totalBytes)} at most: ${isOnCard ? '' : `${states}, `}${staging}everything else ${formatBytes(rest)}`,
    ...(isOnCard
      ? [
          `      of the card ${formatBytes(memory.ownTotalBytes!)} at most: ${states}, kernels and inputs ${formatBytes(onDevice)}, context, code and what others hold ${formatBytes(memory.ownRestBytes!)}`,
        ]
      : []),
  ]
  const json = {
    parameterCount: plan.parameterCount,
    parameterBytes: plan.parameterBytes,
    gradientBytes: plan.gradientBytes,
    gradientBytesAmongActivations: plan.sharedGradientBytes,
    optimizerBytes: plan.optimizerBytes,
    activationBytes: arenaBytes(plan),
    activationBytesByKind: { ...plan.train.memory.peakByKind },
    otherDeviceBytes: plan.otherBytes,
    peakAnonymousBytes: memory.totalBytes,
    peakAnonymousBytesByKind: {
      base: memory.baseBytes,
      device: memory.deviceBytes,
      kernelScratch: memory.scratchBytes,
      checkpointCopy: memory.stagingBytes,
    },
    ...(isOnCard && { peakDeviceBytes: memory.ownTotalBytes }),
    flopsPerStep,
    maxSteps,
    tokens,
    peakFlops,
    estimatedSeconds: seconds,
    estimatedTokensPerSecond: batchTokens / secondsPerStep,
    ...(rates && { measuredRates: { ...rates } }),
    ...(!isOnCard && { loadAverage: loadAverage() }),
  }
  return { lines, json }
}

function busyNote(): string {
  const load = loadAverage()
  return load > IDLE_LOAD ? `; ${load.toFixed(1)} other programs compute here now, so it may take longer` : ''
}
