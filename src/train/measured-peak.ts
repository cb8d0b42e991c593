// The speed that percentages of peak refer to: f32 multiply-adds of all threads, measured here and now.
interface MeasurableDevice {
  readonly matmulPrecision: 'f32' | 'bf16'
  measurePeakFlops(): { f32: number }
}

/** The best of all measurements so far: where a machine is shared, a measurement is disturbed, and only downwards. */
export class MeasuredPeak {
  /** Nothing on this device is faster. False where products are narrower than the peak's f32. */
  readonly isRoof: boolean
  readonly #device: MeasurableDevice
  #flops = 0

  constructor(device: MeasurableDevice) {
    this.#device = device
    this.isRoof = device.matmulPrecision === 'f32'
    this.measureAgain()
  }

  /** FLOP/s. */
  get flops(): number {
    return this.#flops
  }

  /** Takes some 50 milliseconds. */
  measureAgain(): void {
    this.#flops = Math.max(this.#flops, this.#device.measurePeakFlops().f32)
  }
}
