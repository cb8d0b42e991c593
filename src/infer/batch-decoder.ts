// Generating for several sequences at once. A step needs no decision of the host: tokens, lengths and what was made stay
// on the device, which is asked for them every few steps. Where the device has a program for the whole step it runs
// that; otherwise the model's forward, recorded where the device can.
import { emptyTensor, GrowingArena, standaloneTensor } from '../core/allocator.ts'
import type { DecodeStep } from '../core/decode-plan.ts'
import type { Device, Recording } from '../core/device.ts'
import { ConfigError } from '../core/errors.ts'
import { Tape } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import type { DecoderModel } from '../models/decoder.ts'
import { BatchCache } from '../nn/kv-cache.ts'
import { linear } from '../ops/linear.ts'
import { GREEDY, Sampler, type SamplingConfig } from './sampler.ts'

/** Prompt tokens of one forward, padding included: bounds its memory. */
const PREFILL_TOKENS = 8192
/** Steps between two looks at what was made: the host is not waited for, and few steps come after the last stop. */
const HISTORY_STEPS = 32

export interface BatchDecoderOptions {
  readonly batchSize: number
  /** Positions of each sequence. */
  readonly capacity: number
  /** False runs the model's forward even where the device has a program for the step: to compare the two. */
  readonly usesProgram?: boolean
}

export interface BatchGenerateOptions {
  readonly maxNewTokens: number
  /** Default greedy. Each sequence draws from a stream of its own. */
  readonly sampling?: SamplingConfig
  /** A sequence ends before this token; without it every sequence gets maxNewTokens. */
  readonly eosTokenId?: number
}

export interface BatchGeneration {
  /** For each sequence the tokens after its prompt, without the end-of-text token. */
  readonly tokenIds: number[][]
  /** Steps of all sequences together, the prompts not counted. */
  readonly steps: number
  readonly promptSeconds: number
  readonly seconds: number
}

type Mode = 'greedy' | 'logits'

export class BatchDecoder {
  readonly model: DecoderModel
  readonly device: Device
  readonly batchSize: number
  readonly capacity: number
  readonly #usesProgram: boolean
  readonly #cache: BatchCache
  readonly #tokens: Tensor
  readonly #history: Tensor
  readonly #made: Tensor
  readonly #last: Tensor
  /** f32 [B, V]; made when somebody samples. */
  #logits: Tensor | undefined
  readonly #arena: GrowingArena
  readonly #steps = new Map<Mode, DecodeStep>()
  readonly #programs = new Map<Mode, DecodeStep | undefined>()
  readonly #recordings: Recording[] = []

  /** @throws ConfigError if the capacity is more than the model's context */
  constructor(model: DecoderModel, device: Device, options: BatchDecoderOptions) {
    const { numHiddenLayers, numKeyValueHeads, headDim, hiddenSize, maxPositionEmbeddings } = model.shape
    const { batchSize, capacity } = options
    if (capacity > maxPositionEmbeddings) {
      throw new ConfigError(
        `batch decoder: capacity must be at most the model's ${maxPositionEmbeddings} positions, got ${capacity}`,
      )
    }
    this.model = model
    this.device = device
    this.batchSize = batchSize
    this.capacity = capacity
    this.#usesProgram = options.usesProgram ?? true
    this.#cache = new BatchCache(device, numHiddenLayers, numKeyValueHeads * headDim, batchSize, capacity)
    this.#tokens = standaloneTensor(device, [batchSize], 'i32')
    this.#history = standaloneTensor(device, [HISTORY_STEPS, batchSize], 'i32')
    this.#made = standaloneTensor(device, [1], 'i32')
    device.write(this.#made, [0])
    this.#last = standaloneTensor(device, [batchSize, hiddenSize])
    this.#arena = new GrowingArena(device)
  }

  /** Whether steps are a program of the device's own. */
  get hasProgram(): boolean {
    return this.#program('greedy') !== undefined
  }

  /**
   * Generates after the prompts, one a sequence.
   * @throws ConfigError for a wrong number of prompts, an empty one, an id outside the vocabulary, or too little room
   */
  async generate(prompts: readonly (readonly number[])[], options: BatchGenerateOptions): Promise<BatchGeneration> {
    const { maxNewTokens, eosTokenId, sampling = GREEDY } = options
    this.#check(prompts, maxNewTokens)
    const isGreedy = sampling.temperature === 0 && sampling.repetitionPenalty === 1
    const started = performance.now()
    const tokenIds: number[][] = prompts.map(() => [])
    const isDone = prompts.map(() => false)
    const take = (row: ArrayLike<number>, offset: number): void => {
      for (let b = 0; b < prompts.length; b++) {
        const id = row[offset + b]!
        if (isDone[b] || id === eosTokenId) isDone[b] = true
        else tokenIds[b]!.push(id)
      }
    }
    this.#readPrompts(prompts)
    const choose = isGreedy ? undefined : this.#chooser(prompts, tokenIds, sampling)
    let steps = 0
    let promptSeconds = 0
    for (let made = 0; made < maxNewTokens && !isDone.every(Boolean); ) {
      if (choose !== undefined) {
        if (made > 0) this.#step('logits')()
        take(await choose(), 0)
        made++
      } else {
        // The prompts' own row is the first of its kind and comes alone, so that its time is known.
        const count = made === 0 ? 1 : Math.min(HISTORY_STEPS, maxNewTokens - made)
        if (made === 0) this.#firstGreedyToken(prompts)
        else {
          const step = this.#step('greedy')
          this.device.write(this.#made, [0])
          for (let i = 0; i < count; i++) step()
        }
        const rows = await this.device.read(this.#history)
        for (let i = 0; i < count; i++) take(rows, i * this.batchSize)
        made += count
      }
      steps = made - 1
      if (made === 1) promptSeconds = (performance.now() - started) / 1000
    }
    return { tokenIds, steps, promptSeconds, seconds: (performance.now() - started) / 1000 - promptSeconds }
  }

  /** Forgets recordings. The decoder cannot be used afterwards. */
  close(): void {
    for (const recording of this.#recordings) recording.release()
    this.#steps.clear()
    this.#programs.clear()
  }

  #check(prompts: readonly (readonly number[])[], maxNewTokens: number): void {
    const { vocabSize } = this.model.shape
    if (prompts.length !== this.batchSize) {
      throw new ConfigError(`batch decoder: expected ${this.batchSize} prompts, one a sequence, got ${prompts.length}`)
    }
    const wrong = prompts.flat().find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize))
    if (wrong !== undefined || prompts.some((prompt) => prompt.length === 0)) {
      throw new ConfigError(
        `batch decoder: every prompt needs at least one token id in [0, ${vocabSize}), got ${wrong ?? 'an empty one'}`,
      )
    }
    const longest = Math.max(...prompts.map((prompt) => prompt.length))
    if (longest + maxNewTokens - 1 > this.capacity) {
      throw new ConfigError(
        `batch decoder: a prompt of ${longest} tokens and ${maxNewTokens} new ones do not fit in ${this.capacity} positions: raise the capacity or generate fewer`,
      )
    }
  }

  /** Runs the prompts through the model, padded behind their ends: causal attention does not see that. */
  #readPrompts(prompts: readonly (readonly number[])[]): void {
    const { device, model } = this
    for (let first = 0; first < prompts.length; ) {
      let count = 0
      let width = 0
      while (first + count < prompts.length) {
        const wider = Math.max(width, prompts[first + count]!.length)
        if (count > 0 && wider * (count + 1) > PREFILL_TOKENS) break
        width = wider
        count++
      }
      const group = prompts.slice(first, first + count)
      using _ = new Tape(device, { record: false })
      const tokens = emptyTensor(device, [count, width], 'i32')
      const positions = emptyTensor(device, [count, width], 'i32')
      device.write(
        tokens,
        group.flatMap((prompt) => Array.from({ length: width }, (_, i) => prompt[i] ?? 0)),
      )
      device.write(
        positions,
        group.flatMap(() => Array.from({ length: width }, (_, i) => i)),
      )
      const hidden = model.forward({ tokens, positions, cache: this.#cache.prompts(first, count) })
      const rows = hidden.reshape(count * width, hidden.columnCount)
      group.forEach((prompt, b) => {
        device.kernels.copy(this.#last.slice(first + b, 1), rows.slice(b * width + prompt.length - 1, 1))
      })
      first += count
    }
  }

  #firstGreedyToken(prompts: readonly (readonly number[])[]): void {
    const { device } = this
    using _ = new Tape(device, { record: false })
    device.write(
      this.#cache.lengths,
      prompts.map((prompt) => prompt.length - 1),
    )
    device.write(this.#made, [0])
    this.#greedyToken(linear(this.#last, this.model.headWeight))
  }

  #greedyToken(logits: Tensor): void {
    const { lengths } = this.#cache
    this.device.kernels.greedyToken(this.#tokens, lengths, this.#history, this.#made, logits, this.capacity)
  }

  /** Chooses a row of tokens from the logits, writes it for the next step, and gives it. */
  #chooser(
    prompts: readonly (readonly number[])[],
    tokenIds: readonly number[][],
    sampling: SamplingConfig,
  ): () => Promise<number[]> {
    const { device } = this
    const { vocabSize } = this.model.shape
    this.#logits ??= standaloneTensor(device, [this.batchSize, vocabSize], 'f32')
    const logits = this.#logits
    const samplers = prompts.map((_, b) => new Sampler({ ...sampling, seed: sampling.seed + b }))
    {
      using _ = new Tape(device, { record: false })
      device.kernels.copy(logits, linear(this.#last, this.model.headWeight))
    }
    const lengths = prompts.map((prompt) => prompt.length)
    return async () => {
      const values = Float32Array.from(await device.read(logits))
      const row = samplers.map((sampler, b) =>
        sampler.next(values.subarray(b * vocabSize, (b + 1) * vocabSize), [...prompts[b]!, ...tokenIds[b]!]),
      )
      device.write(this.#tokens, row)
      device.write(this.#cache.lengths, lengths)
      for (let b = 0; b < lengths.length; b++) lengths[b]!++
      return row
    }
  }

  #step(mode: Mode): DecodeStep {
    let step = this.#steps.get(mode)
    if (step === undefined) {
      step = this.#program(mode) ?? this.#plainStep(mode)
      this.#steps.set(mode, step)
    }
    return step
  }

  #program(mode: Mode): DecodeStep | undefined {
    if (!this.#programs.has(mode)) this.#programs.set(mode, this.#makeProgram(mode))
    return this.#programs.get(mode)
  }

  #makeProgram(mode: Mode): DecodeStep | undefined {
    const weights = this.#usesProgram ? this.model.llamaWeights?.() : undefined
    if (weights === undefined) return undefined
    const { keys, values, lengths } = this.#cache
    return this.device.decodeStep?.({
      weights,
      keys,
      values,
      lengths,
      tokens: this.#tokens,
      history: this.#history,
      made: this.#made,
      logits: mode === 'logits' ? this.#logits : undefined,
    })
  }

  /** The model's forward of one token a sequence: run as it is at first, then from a recording where there are any. */
  #plainStep(mode: Mode): DecodeStep {
    const { device, model, batchSize } = this
    const body = (): void => {
      this.#arena.reset()
      using _ = new Tape(device, { record: false, allocator: this.#arena })
      const hidden = model.forward({
        tokens: this.#tokens.reshape(batchSize, 1),
        positions: this.#cache.lengths.reshape(batchSize, 1),
        cache: this.#cache.next(),
      })
      const logits = linear(hidden.reshape(batchSize, hidden.columnCount), model.headWeight)
      if (mode === 'logits') device.kernels.copy(this.#logits!, logits)
      this.#greedyToken(logits)
    }
    let recording: Recording | undefined
    let runs = 0
    return () => {
      if (recording !== undefined) return recording.replay()
      if (runs === 1 && device.record !== undefined) {
        device.settle?.()
        recording = device.record(body)
        this.#recordings.push(recording)
        return recording.replay()
      }
      runs++
      body()
    }
  }
}
