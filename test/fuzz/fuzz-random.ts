// Random choices of the fuzz campaign: a Philox stream of its own for every input, so that input k of a target can be
// made again alone, whatever came before it.
import type { RandomKey } from '../../src/core/kernels.ts'
import { randomKey, randomWord } from '../../src/core/random.ts'

export class FuzzRandom {
  readonly #key: RandomKey
  #used = 0

  constructor(seed: number, stream: string) {
    this.#key = randomKey(seed, `fuzz.${stream}`)
  }

  /** A whole number in [0, n); 0 where n is 0. */
  below(n: number): number {
    return Math.floor((randomWord(this.#key, this.#used++) / 2 ** 32) * n)
  }

  chance(probability: number): boolean {
    return randomWord(this.#key, this.#used++) / 2 ** 32 < probability
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!
  }
}
