// What a run takes from memory: the whole process, and a card's where the device has memory of its own; forecast before
// the run and sampled while it goes on. "Anonymous" is memory that no file backs, what a machine can run out of. Plans
// nothing itself: plan.ts does.
import type { Device, DeviceMemory } from '../core/device.ts'
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
  /** The part of it that is neither tensors nor kernels' scratch: context, code, libraries, other programs. */
  readonly ownRestBytes: number | undefined
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
  const ownRestBytes = own && own.totalBytes - own.freeBytes + (device.ownLibraryBytes ?? 0)
  return {
    baseBytes,
    deviceBytes,
    scratchBytes,
    stagingBytes,
    totalBytes: baseBytes + stagingBytes + (own === undefined ? taken : 0),
    ownTotalBytes: ownRestBytes === undefined ? undefined : ownRestBytes + taken,
    ownRestBytes,
  }
}

/** The highest of all samples of this process's anonymous memory, and of the device's own. */
export class PeakMemory {
  readonly #device: Device | undefined
  #bytes = 0
  #own: DeviceMemory | undefined

  constructor(device?: Device) {
    this.#device = device
  }

  /** Takes some 50 microseconds. */
  sample(): void {
    this.#bytes = Math.max(this.#bytes, anonymousBytes())
    const own = this.#device?.ownMemory?.()
    if (own !== undefined && takenOf(own) > (this.#own === undefined ? 0 : takenOf(this.#own))) this.#own = own
  }

  get bytes(): number {
    return this.#bytes
  }

  /** The device's own memory when most of it was taken; undefined where it has none. */
  get own(): DeviceMemory | undefined {
    return this.#own
  }
}

/** Bytes that are taken, by whomever. */
export function takenOf({ totalBytes, freeBytes }: DeviceMemory): number {
  return totalBytes - freeBytes
}

/** What a device's own memory held, by component, beside the forecast: for people and for files. */
export function ownComponents(forecast: MemoryForecast, own: DeviceMemory) {
  const restBytes = takenOf(own) - own.tensorBytes - own.scratchBytes
  return [
    { name: 'tensors', predictedBytes: forecast.deviceBytes, bytes: own.tensorBytes },
    { name: 'kernels', predictedBytes: forecast.scratchBytes, bytes: own.scratchBytes },
    { name: 'the rest', predictedBytes: forecast.ownRestBytes ?? 0, bytes: restBytes },
  ]
}

/** Prediction and measurement in one line. @param own  of the device's own memory at its peak, where it has some */
export function memorySentence(forecast: MemoryForecast, peakBytes: number, own?: DeviceMemory): string {
  const compare = (predicted: number, used: number): string => {
    const error = predicted / used - 1
    return `${formatBytes(used)} at most, ${formatBytes(predicted)} predicted (${error < 0 ? '' : '+'}${formatPercent(error)})`
  }
  const process = `memory: ${compare(forecast.totalBytes, peakBytes)}`
  if (forecast.ownTotalBytes === undefined || own === undefined) return process
  const parts = ownComponents(forecast, own).map(
    ({ name, bytes, predictedBytes }) => `${name} ${formatBytes(bytes)} (${formatBytes(predictedBytes)} predicted)`,
  )
  return `${process}\non the card: ${compare(forecast.ownTotalBytes, takenOf(own))}: ${parts.join(', ')}`
}
