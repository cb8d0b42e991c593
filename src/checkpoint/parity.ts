// What a conversion proves, and what `parity.json` says of it: every tensor bit for bit, and that both models go on alike.
// Reads tensors; to run the models is left to `CompareModels`, which recipes bring along.
import type { HostArray } from '../core/dtype.ts'
import { CheckpointError } from '../core/errors.ts'
import { show, sizeOf } from '../core/tensor.ts'
import type { HfConfig } from './hf-config.ts'
import { convertValues, type TensorSource } from './safetensors-writer.ts'

/** What `parity.json` holds: proof that the artefact is what its source was. */
export interface Parity {
  readonly version: 1
  /** Name of the converted file or folder. */
  readonly source: string
  readonly tensors: number
  readonly elements: number
  /** Element types in the artefact. */
  readonly dtypes: readonly string[]
  /** Every tensor, read back, has exactly the bits of the source rounded to its type. Always true: else an error. */
  readonly isBitwiseEqual: true
  /** Largest change of an element by rounding to a narrower type; 0 where the type is the source's. */
  readonly maxRounding: number
  /** What both models said, where that was compared. */
  readonly greedy?: GreedyParity
}

/** The continuation of one prompt by the source and by the artefact, each with the configuration of its own files. */
export interface GreedyParity {
  /** Token ids. */
  readonly prompt: readonly number[]
  /** Most likely tokens that were made after it. */
  readonly tokens: number
  /** Leading tokens in which both agree: all, unless weights were rounded. */
  readonly equalTokens: number
}

/** A model on disk, as something to compute with. */
export interface StoredModel {
  readonly config: HfConfig
  /** All elements of a tensor, row-major, by its Hugging Face name. */
  readTensor(name: string): Promise<HostArray>
}

/** Runs source and artefact on a device. Gives undefined where it cannot, for want of a device or for their size. */
export type CompareModels = (source: StoredModel, artefact: StoredModel) => Promise<GreedyParity | undefined>

/** The report in one line, for a terminal. */
export function paritySentence(out: string, { tensors, elements, dtypes, maxRounding, greedy }: Parity): string {
  const size = `${tensors} tensors, ${elements.toLocaleString('en-US')} parameters in ${dtypes.join(' and ')}`
  const rounding = maxRounding === 0 ? '' : `; rounding changed no element by more than ${maxRounding.toPrecision(2)}`
  const differs = greedy !== undefined && greedy.equalTokens < greedy.tokens
  const said = differs ? `; ${greedy.equalTokens} of ${greedy.tokens} greedy tokens as before` : ''
  return `${out}: ${size}, read back bit for bit${rounding}${said}`
}

/** Reads both sides again, piece by piece. @throws CheckpointError at the first difference */
export async function compareTensors(
  expected: readonly TensorSource[],
  actual: readonly TensorSource[],
  source: string,
  path: string,
): Promise<Parity> {
  const byName = new Map(actual.map((tensor) => [tensor.name, tensor]))
  if (byName.size !== expected.length) {
    throw new CheckpointError(`${path}: ${expected.length} tensors were written, but ${byName.size} are there`)
  }
  let maxRounding = 0
  for (const tensor of expected) {
    const twin = byName.get(tensor.name)
    const rounding = twin === undefined ? undefined : await compareTensor(tensor, twin)
    if (rounding === undefined) {
      throw new CheckpointError(
        `${path}: tensor ${tensor.name} does not read back as it was written; the disk or memory failed`,
      )
    }
    maxRounding = Math.max(maxRounding, rounding)
  }
  return {
    version: 1,
    source,
    tensors: expected.length,
    elements: expected.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
    dtypes: [...new Set(expected.map(({ dtype }) => dtype))].sort(),
    isBitwiseEqual: true,
    maxRounding,
  }
}

/** Largest rounding of an element, or undefined where a bit differs from the rounded source. */
async function compareTensor(expected: TensorSource, actual: TensorSource): Promise<number | undefined> {
  if (expected.dtype !== actual.dtype || show(expected.shape) !== show(actual.shape)) return undefined
  const written = new Cursor(actual.chunks())
  let maxRounding = 0
  for await (const chunk of expected.chunks()) {
    for (let from = 0; from < chunk.length; ) {
      const found = await written.next(chunk.length - from)
      if (found === undefined) return undefined
      const wanted = chunk.subarray(from, from + found.length)
      const [a, b] = [convertValues(wanted, expected.dtype), convertValues(found, expected.dtype)]
      if (Buffer.compare(bytesOf(a), bytesOf(b)) !== 0) return undefined
      for (let i = 0; i < wanted.length; i++) {
        const rounding = Math.abs(wanted[i]! - found[i]!)
        if (rounding > maxRounding && rounding !== Number.POSITIVE_INFINITY) maxRounding = rounding
      }
      from += found.length
    }
  }
  return (await written.next(1)) === undefined ? maxRounding : undefined
}

function bytesOf(values: HostArray): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}

/** Hands out the elements of pieces in portions of at most a wanted length. */
class Cursor {
  readonly #pieces: AsyncIterator<HostArray> | Iterator<HostArray>
  #piece: HostArray = new Uint8Array(0)
  #used = 0

  constructor(chunks: Iterable<HostArray> | AsyncIterable<HostArray>) {
    this.#pieces = Symbol.asyncIterator in chunks ? chunks[Symbol.asyncIterator]() : chunks[Symbol.iterator]()
  }

  async next(count: number): Promise<HostArray | undefined> {
    while (this.#used === this.#piece.length) {
      const result = await this.#pieces.next()
      if (result.done === true) return undefined
      this.#piece = result.value
      this.#used = 0
    }
    const portion = this.#piece.subarray(this.#used, this.#used + count)
    this.#used += portion.length
    return portion
  }
}

/** Adds what the two models say. Equal bits under a config.json that means something else would pass without. */
export async function withGreedy(
  parity: Parity,
  source: StoredModel,
  artefact: StoredModel,
  path: string,
  compareModels: CompareModels | undefined,
): Promise<Parity> {
  const greedy = await compareModels?.(source, artefact)
  if (greedy === undefined) return parity
  if (parity.maxRounding === 0 && greedy.equalTokens < greedy.tokens) {
    throw new CheckpointError(
      `${path}: the weights are those of ${parity.source}, but only ${greedy.equalTokens} of ${greedy.tokens} greedy tokens are; the configuration was not carried over, please report this`,
    )
  }
  return { ...parity, greedy }
}
