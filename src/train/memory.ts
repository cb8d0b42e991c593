// What a run takes from memory: the whole process, and a card's where the device has memory of its own; forecast before
// the run and sampled while it goes on. "Anonymous" is memory that no file backs, what a machine can run out of. Plans
// nothing itself: plan.ts does.
import type { Device } from '../core/device.ts'
import { formatBytes, formatPercent } from '../display/format.ts'
import { anonymousBytes } from '../machine/memory.ts'
import type { DecoderShape } from '../models/decoder.ts'
import { type StepPlan, totalBytes } from './plan.ts'

/** Peak of a process's anonymous memory by component, in bytes. */
export interface MemoryForecast {
  /** There before the run's own: Node, code, libraries, data, the thread that writes checkpoints. Measured, or known for the device's. */
  readonly baseBytes: number
  /** Parameters, gradients, optimizer states, the arena of a step, inputs and tables: from the dry run, exactly. */
  readonly deviceBytes: number
  /** What kernels keep for themselves. */
  readonly scratchBytes: number
  /** The copy of parameters and optimizer states that a checkpoint is written from while training goes on. */
  readonly stagingBytes: number
  /** Of the process: without deviceBytes and scratchBytes where these lie in the device's own memory. */
  readonly totalBytes: number
  /** Of the device's own memory, with what was taken there before; absent where it has none. */
  readonly ownTotalBytes: number | undefined
}

/**
 * @param shape.asyncSave  whether checkpoints are written from a copy
 * @param processBytes     anonymous memory of the process now, before the run has taken any
 */
export function forecastMemory(
  plan: StepPlan,
  device: Device,
  shape: DecoderShape & { readonly microBatchSize: number; readonly seqLen: number; readonly asyncSave: boolean },
  processBytes: number,
): MemoryForecast {
  const baseBytes = processBytes + (device.libraryBytes ?? 0)
  const deviceBytes = totalBytes(plan)
  const scratchBytes = device.kernelScratchBytes?.(shape) ?? 0
  const stagingBytes = shape.asyncSave ? plan.masterBytes + plan.optimizerBytes : 0
  const own = device.ownMemory?.()
  const taken = deviceBytes + scratchBytes
  return {
    baseBytes,
    deviceBytes,
    scratchBytes,
    stagingBytes,
    totalBytes: baseBytes + stagingBytes + (own === undefined ? taken : 0),
    ownTotalBytes: own && own.totalBytes - own.freeBytes + taken,
  }
}

/** The highest of all samples of this process's anonymous memory, and of the device's own. */
export class PeakMemory {
  readonly #device: Device | undefined
  #bytes = 0
  #ownBytes = 0

  constructor(device?: Device) {
    this.#device = device
  }

  /** Takes some 50 microseconds. */
  sample(): void {
    this.#bytes = Math.max(this.#bytes, anonymousBytes())
    const own = this.#device?.ownMemory?.()
    if (own !== undefined) this.#ownBytes = Math.max(this.#ownBytes, own.totalBytes - own.freeBytes)
  }

  /** 0 where the device has no memory of its own. */
  get ownBytes(): number {
    return this.#ownBytes
  }

  get bytes(): number {
    return this.#bytes
  }
}

/** Prediction and measurement in one line. @param ownPeakBytes  of the device's own memory, where it has some */
export function memorySentence(forecast: MemoryForecast, peakBytes: number, ownPeakBytes?: number): string {
  const compare = (predicted: number, used: number): string => {
    const error = predicted / used - 1
    return `${formatBytes(used)} at most, ${formatBytes(predicted)} predicted (${error < 0 ? '' : '+'}${formatPercent(error)})`
  }
  const process = `memory: ${compare(forecast.totalBytes, peakBytes)}`
  if (forecast.ownTotalBytes === undefined || ownPeakBytes === undefined) return process
  return `${process}; on the card ${compare(forecast.ownTotalBytes, ownPeakBytes)}`
}
