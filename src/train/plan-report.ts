// The plan of a run in words and as JSON: parameters, FLOPs, memory, expected time.
import { formatBytes, formatCount, formatDuration } from '../display/format.ts'
import { arenaBytes } from './plan.ts'
import type { Pretraining } from './pretrain.ts'

/** What part of the measured peak a step is expected to reach. */
const EXPECTED_SHARE = 0.65

/** @param peakFlops  measured FLOP/s of the device */
export function describePlan(
  training: Pretraining,
  maxSteps: number,
  peakFlops: number,
): { lines: string[]; json: Record<string, unknown> } {
  const { plan, flopsPerStep, loader, memory } = training
  const { batchTokens } = training.settings
  const tokens = maxSteps * batchTokens
  const seconds = (flopsPerStep * (maxSteps - training.stepsDone)) / (EXPECTED_SHARE * peakFlops)
  const epochs = (maxSteps / loader.stepsPerEpoch).toFixed(2)
  const staging = memory.stagingBytes === 0 ? '' : `copy for checkpoints ${formatBytes(memory.stagingBytes)}, `
  const isOnCard = memory.ownTotalBytes !== undefined
  const states = `parameters ${formatBytes(plan.parameterBytes)}, gradients ${formatBytes(plan.gradientBytes)}, optimizer ${formatBytes(plan.optimizerBytes)}, activations ${formatBytes(arenaBytes(plan))}`
  const onDevice = memory.scratchBytes + plan.otherBytes
  const rest = memory.baseBytes + (isOnCard ? 0 : onDevice)
  const lines = [
    `plan: ${formatCount(plan.parameterCount)} parameters; ${formatCount(maxSteps)} steps of ${formatCount(batchTokens)} tokens = ${formatCount(tokens)} tokens (${epochs} epochs)`,
    `      ${(flopsPerStep * maxSteps).toExponential(2)} FLOPs counted op by op (6 N D: ${(6 * plan.parameterCount * tokens).toExponential(2)}); about ${formatDuration(seconds)} at ${100 * EXPECTED_SHARE}% of ${isOnCard ? "this card's" : "this machine's"} ${formatCount(peakFlops)} FLOP/s`,
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
    estimatedTokensPerSecond: (batchTokens * EXPECTED_SHARE * peakFlops) / flopsPerStep,
  }
  return { lines, json }
}
