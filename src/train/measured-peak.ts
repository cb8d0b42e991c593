// The speed that percentages of peak refer to, measured here and now: multiply-adds of a processor's threads, or large
// matrix products of a card.
export interface PeakSource {
  /** `f32 peak`: follows "the measured". */
  readonly what: string
  /** Nothing on this device is faster. */
  readonly isRoof: boolean
  /** FLOP/s. */
  measure(): number
}

/** The best of all measurements so far: where a machine is shared, a measurement is disturbed, and only downwards. */
export class MeasuredPeak {
  readonly what: string
  readonly isRoof: boolean
  readonly #measure: () => number
  #flops = 0

  constructor({ what, isRoof, measure }: PeakSource) {
    this.what = what
    this.isRoof = isRoof
    this.#measure = measure
    this.measureAgain()
  }

  /** FLOP/s. */
  get flops(): number {
    return this.#flops
  }

  /** Takes some 50 milliseconds. */
  measureAgain(): void {
    this.#flops = Math.max(this.#flops, this.#measure())
  }
}
