// How large the numbers of a training step are, tensor by tensor, and which of them narrower floats would lose: zeros that
// were none, and numbers beyond the largest. One micro-batch runs call by call, and everything it makes is kept.
import { widened } from '../checkpoint/half.ts'
import { standaloneTensor } from '../core/allocator.ts'
import { FP8_LARGEST } from '../core/fp8.ts'
import type { Gradients } from '../core/gradients.ts'
import type { TapeEntry } from '../core/op.ts'
import { Parameter } from '../core/parameter.ts'
import { Tape } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import { DropoutStreams } from '../models/decoder.ts'
import { shortName } from './precision-table.ts'
import type { Pretraining } from './pretrain.ts'
import { BatchTensors, microStep } from './step.ts'

/** Exponents that are counted: of the smallest subnormal number of f32, and of the largest number. */
const [LEAST, MOST] = [-149, 127]

/** Where a format ends: halves of its smallest number become 0, numbers from `overflow` on do not fit. */
const FORMATS = {
  f16: { smallest: 2 ** -24, largest: 65504, overflow: 65520 },
  e4m3: { smallest: 2 ** -9, largest: FP8_LARGEST.e4m3, overflow: 464 },
  e5m2: { smallest: 2 ** -16, largest: FP8_LARGEST.e5m2, overflow: 61440 },
} as const
export type NarrowFormat = keyof typeof FORMATS

/** Shares of the non-zero numbers. */
export interface Lost {
  /** Become 0. */
  readonly under: number
  /** Are beyond the largest number. */
  readonly over: number
}

export interface NumberRange {
  /** `gradient of selfAttn.oProj`, over all layers together. */
  readonly name: string
  readonly tensors: number
  readonly numbers: number
  readonly zeros: number
  /** Non-zero numbers in [2^(first + i), 2^(first + i + 1)). */
  readonly first: number
  readonly counts: Float64Array
  /** As they are. */
  readonly lost: Readonly<Record<NarrowFormat, Lost>>
  /** Multiplied by the largest power of two at which each tensor's largest number fits: what scaling by tensor loses. */
  readonly lostScaled: Readonly<Record<NarrowFormat, Lost>>
}

/** Adds up tensors of one name. */
export class RangeCounter {
  readonly #counts = new Float64Array(MOST - LEAST + 1)
  readonly #lost = countsOf()
  readonly #lostScaled = countsOf()
  #tensors = 0
  #numbers = 0
  #zeros = 0

  add(values: ArrayLike<number>): void {
    this.#tensors++
    this.#numbers += values.length
    let amax = 0
    for (let i = 0; i < values.length; i++) amax = Math.max(amax, Math.abs(values[i]!))
    const formats = (Object.keys(FORMATS) as NarrowFormat[]).map((name) => {
      const { smallest, largest, overflow } = FORMATS[name]
      const scale = amax > 0 ? 2 ** Math.floor(Math.log2(largest / amax)) : 1
      // Half of the smallest number is rounded to the even one, which is 0.
      return { under: smallest / 2, overflow, scale, plain: this.#lost[name], scaled: this.#lostScaled[name] }
    })
    for (let i = 0; i < values.length; i++) {
      const x = Math.abs(values[i]!)
      if (x === 0) {
        this.#zeros++
        continue
      }
      this.#counts[Math.max(LEAST, Math.min(MOST, Math.floor(Math.log2(x)))) - LEAST]!++
      for (const { under, overflow, scale, plain, scaled } of formats) {
        if (x <= under) plain.under++
        else if (x >= overflow) plain.over++
        if (x * scale <= under) scaled.under++
        else if (x * scale >= overflow) scaled.over++
      }
    }
  }

  range(name: string): NumberRange {
    const nonZero = Math.max(1, this.#numbers - this.#zeros)
    const shares = (lost: ReturnType<typeof countsOf>) =>
      Object.fromEntries(
        Object.entries(lost).map(([format, { under, over }]) => [
          format,
          { under: under / nonZero, over: over / nonZero },
        ]),
      ) as Record<NarrowFormat, Lost>
    return {
      name,
      tensors: this.#tensors,
      numbers: this.#numbers,
      zeros: this.#zeros,
      first: LEAST,
      counts: this.#counts,
      lost: shares(this.#lost),
      lostScaled: shares(this.#lostScaled),
    }
  }
}

function countsOf(): Record<NarrowFormat, { under: number; over: number }> {
  return { f16: { under: 0, over: 0 }, e4m3: { under: 0, over: 0 }, e5m2: { under: 0, over: 0 } }
}

/**
 * The next micro-batch of a training: activations, their gradients, gradients of parameters, and weights. Nothing is
 * updated. Gradients are those of the mean loss of a step, times the loss scale where the training has one.
 */
export async function numberRanges(training: Pretraining): Promise<NumberRange[]> {
  const { device, optimizer, settings } = training
  const { microBatchSize, seqLen } = settings
  const step = training.loader.step(training.stepsDone)
  const batch = new BatchTensors(device, microBatchSize, seqLen)
  batch.fill(step.microBatch(0, microBatchSize))
  training.step.fp8?.refresh()
  optimizer.begin(step.trainedTokens)
  const kept: { name: string; tensor: Tensor }[] = []
  const keep = (name: string, tensor: Tensor): void => {
    if (tensor.fp8 !== undefined) return
    const copy = standaloneTensor(device, tensor.shape, tensor.dtype)
    device.kernels.copy(copy, tensor)
    kept.push({ name, tensor: copy })
  }
  const seen = new Set<TapeEntry>()
  const onOp = (entry: TapeEntry, phase: string, gradients?: Gradients): void => {
    const { out } = entry.outputs
    if (out === undefined) return
    if (phase === 'forward') keep(labelOf(entry), out)
    else if (!seen.has(entry)) {
      seen.add(entry)
      const gradient = gradients?.find(out)
      if (gradient !== undefined) keep(`gradient of ${labelOf(entry)}`, gradient)
    }
  }
  {
    using tape = new Tape(device, { onOp })
    const options = { dropout: 0, streams: new DropoutStreams(settings.seed) }
    microStep(training.step.model, batch, optimizer.scalars, tape, options, true)
  }
  for (const { segments } of optimizer.arenas) {
    for (const { parameter } of segments) {
      if (parameter.gradient !== undefined)
        kept.push({ name: `gradient of weights ${shortName(parameter)}`, tensor: parameter.gradient })
      kept.push({ name: `weights ${shortName(parameter)}`, tensor: parameter.stored })
    }
  }
  const counters = new Map<string, RangeCounter>()
  for (const { name, tensor } of kept) {
    const counter = counters.get(name) ?? new RangeCounter()
    counters.set(name, counter)
    counter.add(widened(await device.read(tensor), tensor.dtype))
  }
  return [...counters].map(([name, counter]) => counter.range(name))
}

/** `selfAttn.oProj`, `swiglu`: what made a tensor, without the number of its layer. */
function labelOf({ op, inputs }: TapeEntry): string {
  const weights = op.weights ?? []
  const parameters = weights.map((name) => inputs[name]).filter((tensor) => tensor instanceof Parameter)
  // Of an MLP in one op the last weight made the result.
  const matrix = parameters.filter(({ shape }) => shape.length > 1).at(-1) ?? parameters[0]
  return matrix === undefined ? op.id : shortName(matrix)
}
