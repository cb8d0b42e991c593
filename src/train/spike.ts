// When a run goes wrong: notices a loss that is no number or far above the last ones, and gathers what explains it.

import type { ParameterArena } from '../core/arena.ts'
import type { HostArray } from '../core/dtype.ts'
import type { Tensor } from '../core/tensor.ts'
import type { Pretraining, StepReport } from './pretrain.ts'
import type { JsonRecord } from './run-dir.ts'

/** Losses that the next one is compared with. */
const WINDOW = 50

/** Watches the losses of a run in order. */
export class SpikeDetector {
  readonly #sigmas: number
  readonly #losses: number[] = []

  /** @param sigmas  how many standard deviations above the mean of the last 50 losses is too much; 0 for never */
  constructor(sigmas: number) {
    this.#sigmas = sigmas
  }

  /** Why this step is bad, or undefined. A loss or gradient that is no finite number always is. */
  check({ loss, gradNorm, isFinite: isGradientFinite }: StepReport): string | undefined {
    if (!Number.isFinite(loss)) return `its loss is ${loss}`
    if (!isGradientFinite) return `its gradient norm is ${gradNorm}`
    const losses = this.#losses
    const mean = losses.reduce((sum, value) => sum + value, 0) / losses.length
    const deviation = Math.sqrt(losses.reduce((sum, value) => sum + (value - mean) ** 2, 0) / losses.length)
    const isSpike = this.#sigmas > 0 && losses.length === WINDOW && loss > mean + this.#sigmas * deviation
    losses.push(loss)
    if (losses.length > WINDOW) losses.shift()
    if (!isSpike) return undefined
    return `its loss ${loss.toFixed(4)} is more than ${this.#sigmas} standard deviations above the last ${WINDOW} (${mean.toFixed(4)} +- ${deviation.toFixed(4)})`
  }
}

/** What was trained on in the last step, and the norms of gradients and weights by layer. */
export async function describeLastStep(training: Pretraining, report: StepReport, reason: string): Promise<JsonRecord> {
  const { device, optimizer, loader } = training
  const layers: JsonRecord[] = []
  for (const [unit, arenas] of Map.groupBy(optimizer.arenas, (arena) => arena.key.unit)) {
    const norm = async (tensorOf: (arena: ParameterArena) => Tensor, scale: number): Promise<string> =>
      normOf(await Promise.all(arenas.map((arena) => device.read(tensorOf(arena)))), scale)
    const gradNorm = await norm((arena) => arena.gradients!, report.usedGradScale)
    layers.push({ unit, gradNorm, weightNorm: await norm((arena) => arena.weights, 1) })
  }
  return {
    step: report.step,
    reason,
    // JSON has no NaN: as text.
    loss: String(report.loss),
    gradNorm: String(report.gradNorm),
    lr: report.lr,
    layers,
    documents: loader.documentsOf(report.step - 1),
  }
}

/** Of values that are `scale` times too large; as text, because it may be no number. */
function normOf(arrays: readonly HostArray[], scale: number): string {
  let sum = 0
  for (const values of arrays) for (const value of values) sum += value * value
  return (Math.sqrt(sum) / scale).toPrecision(6)
}
