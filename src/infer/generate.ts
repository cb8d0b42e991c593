// Generating text with a key-value cache: the prompt goes through the model in chunks, then one token at a time. Memory of
// a forward is a scope that is reused, so that nothing is allocated for a token.
import { emptyTensor } from '../core/allocator.ts'
import type { Device } from '../core/device.ts'
import { ConfigError } from '../core/errors.ts'
import { Tape } from '../core/tape.ts'
import { StreamDecoder } from '../data/tokenizer/stream-decoder.ts'
import type { Tokenizer } from '../data/tokenizer/tokenizer.ts'
import type { DecoderModel } from '../models/decoder.ts'
import { KvCache } from '../nn/kv-cache.ts'
import { linear } from '../ops/linear.ts'
import { Sampler, type SamplingConfig } from './sampler.ts'
import { StopStrings } from './stop-strings.ts'

/** Prompt tokens of one forward: bounds the memory of a long prompt. */
const PREFILL_TOKENS = 256

/** A sequence that grows: the model, its cache, and the logits of what comes next. */
export class DecodingSession {
  readonly model: DecoderModel
  readonly device: Device
  readonly #cache: KvCache

  /** @param capacity  tokens to hold; default the model's context */
  constructor(model: DecoderModel, device: Device, capacity: number = model.shape.maxPositionEmbeddings) {
    this.model = model
    this.device = device
    const { numHiddenLayers, numKeyValueHeads, headDim } = model.shape
    this.#cache = new KvCache(device, numHiddenLayers, numKeyValueHeads * headDim, capacity)
  }

  /** Tokens in the cache. */
  get length(): number {
    return this.#cache.length
  }

  get capacity(): number {
    return this.#cache.capacity
  }

  /** Forgets tokens from `length` on. */
  truncate(length: number): void {
    this.#cache.truncate(length)
  }

  /**
   * Appends tokens and gives the logits [V] that follow the last of them.
   * @throws ConfigError if they do not fit, or an id is outside the vocabulary
   */
  async append(tokens: readonly number[]): Promise<Float32Array> {
    const { vocabSize } = this.model.shape
    const wrong = tokens.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize))
    if (wrong !== undefined || tokens.length === 0) {
      throw new ConfigError(
        `generate: expected at least one token id in [0, ${vocabSize}), got ${wrong === undefined ? 'none' : wrong}`,
      )
    }
    let logits: Float32Array = new Float32Array()
    for (let from = 0; from < tokens.length; from += PREFILL_TOKENS) {
      logits = await this.#forward(tokens.slice(from, from + PREFILL_TOKENS), from + PREFILL_TOKENS >= tokens.length)
    }
    return logits
  }

  async #forward(tokens: readonly number[], wantsLogits: boolean): Promise<Float32Array> {
    const { model, device } = this
    const start = this.#cache.length
    const count = tokens.length
    using _ = new Tape(device, { record: false })
    const ids = emptyTensor(device, [1, count], 'i32')
    const positions = emptyTensor(device, [1, count], 'i32')
    device.write(ids, tokens)
    device.write(
      positions,
      Array.from({ length: count }, (_, i) => start + i),
    )
    const hidden = model.forward({ tokens: ids, positions, cache: this.#cache })
    if (!wantsLogits) return new Float32Array()
    const last = hidden.reshape(count, hidden.columnCount).slice(count - 1, 1)
    const logits = emptyTensor(device, [1, model.shape.vocabSize], 'f32')
    device.kernels.copy(logits, linear(last, model.headWeight))
    return Float32Array.from(await device.read(logits))
  }
}

export interface GenerateOptions {
  sampling: SamplingConfig
  maxNewTokens: number
  /** Texts that end the generation; they are not part of the result. */
  stop?: readonly string[]
  /** Do not stop at the end-of-text token. */
  ignoreEos?: boolean
  signal?: AbortSignal
  /** Called between tokens, so that the program stays responsive. */
  turn?: () => Promise<void>
}

export interface Generation {
  text: string
  tokenIds: number[]
  promptTokens: number
  /** Why it ended: end-of-text token, stop string, maxNewTokens, full context, or a signal. */
  reason: 'eos' | 'stop' | 'length' | 'context' | 'aborted'
  promptSeconds: number
  seconds: number
}

/**
 * Generates after the tokens already in `session` and those of `prompt`, calling `onText` with whole characters as they
 * come.
 * @throws ConfigError if the prompt does not fit in the context
 */
export async function generate(
  session: DecodingSession,
  tokenizer: Tokenizer,
  prompt: readonly number[],
  options: GenerateOptions,
  onText: (piece: string) => void = () => {},
): Promise<Generation> {
  if (session.length + prompt.length > session.capacity) {
    throw new ConfigError(
      `generate: the prompt has ${prompt.length} tokens and the context ${session.capacity - session.length} left: shorten the prompt`,
    )
  }
  const sampler = new Sampler(options.sampling)
  const isContinuation = session.length > 0 || prompt.some((id) => id !== tokenizer.bosTokenId)
  const decoder = new StreamDecoder(tokenizer, { isContinuation })
  const stops = new StopStrings(options.stop ?? [])
  const seen = [...prompt]
  const tokenIds: number[] = []
  let text = ''
  const emit = (piece: string): void => {
    const shown = stops.push(piece)
    text += shown
    if (shown !== '') onText(shown)
  }
  const started = performance.now()
  let logits = await session.append(prompt)
  const prefilled = performance.now()
  let reason: Generation['reason'] = 'length'
  while (tokenIds.length < options.maxNewTokens) {
    const id = sampler.next(logits, seen)
    if (id === tokenizer.eosTokenId && options.ignoreEos !== true) {
      reason = 'eos'
      break
    }
    tokenIds.push(id)
    seen.push(id)
    emit(decoder.push(id))
    if (stops.isStopped) {
      reason = 'stop'
      break
    }
    if (options.signal?.aborted) {
      reason = 'aborted'
      break
    }
    if (tokenIds.length === options.maxNewTokens) break
    if (session.length >= session.capacity) {
      reason = 'context'
      break
    }
    logits = await session.append([id])
    await options.turn?.()
  }
  if (!stops.isStopped) {
    emit(decoder.flush())
    const held = stops.flush()
    text += held
    if (held !== '') onText(held)
  }
  const finished = performance.now()
  return {
    text,
    tokenIds,
    promptTokens: prompt.length,
    reason,
    promptSeconds: (prefilled - started) / 1000,
    seconds: (finished - prefilled) / 1000,
  }
}
