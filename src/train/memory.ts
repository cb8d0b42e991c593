// What a run takes from memory: the whole process, forecast before the run and sampled while it goes on. "Anonymous"
// is memory that no file backs, what a machine can run out of. Plans nothing itself: plan.ts does.
import type { Device } from '../core/device.ts'
import { formatBytes, formatPercent } from '../display/format.ts'
import { anonymousBytes } from '../machine/memory.ts'
import type { DecoderShape } from '../models/decoder.ts'
import { type StepPlan, totalBytes } from './plan.ts'

/** Peak of a process's anonymous memory by component, in bytes. */
export interface MemoryForecast {
  /** There before the run's own: Node, code, libraries, data, the thread that writes checkpoints. Measured. */
  readonly baseBytes: number
  /** Parameters, gradients, optimizer states, the arena of a step, inputs and tables: from the dry run, exactly. */
  readonly deviceBytes: number
  /** What kernels keep for themselves. */
  readonly scratchBytes: number
  /** The copy of parameters and optimizer states that a checkpoint is written from while training goes on. */
  readonly stagingBytes: number
  readonly totalBytes: number
}

/**
 * @param shape.asyncSave  whether checkpoints are written from a copy
 * @param baseBytes        anonymous memory of the process now, before the run has taken any
 */
export function forecastMemory(
  plan: StepPlan,
  device: Device,
  shape: DecoderShape & { readonly microBatchSize: number; readonly seqLen: number; readonly asyncSave: boolean },
  baseBytes: number,
): MemoryForecast {
  const deviceBytes = totalBytes(plan)
  const scratchBytes = device.kernelScratchBytes?.(shape) ?? 0
  const stagingBytes = shape.asyncSave ? plan.parameterBytes + plan.optimizerBytes : 0
  return {
    baseBytes,
    deviceBytes,
    scratchBytes,
    stagingBytes,
    totalBytes: baseBytes + deviceBytes + scratchBytes + stagingBytes,
  }
}

/** The highest of all samples of this process's anonymous memory. */
export class PeakMemory {
  #bytes = 0

  /** Takes some 50 microseconds. */
  sample(): void {
    this.#bytes = Math.max(this.#bytes, anonymousBytes())
  }

  get bytes(): number {
    return this.#bytes
  }
}

/** Prediction and measurement in one line. */
export function memorySentence(forecast: MemoryForecast, peakBytes: number): string {
  const error = forecast.totalBytes / peakBytes - 1
  return `memory: ${formatBytes(peakBytes)} at most, ${formatBytes(forecast.totalBytes)} predicted (${error < 0 ? '' : '+'}${formatPercent(error)})`
}
