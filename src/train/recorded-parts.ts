// The parts of a step that a device may record: each runs call by call the first time it is asked for (kernels are
// compiled then, algorithms chosen), is recorded the second time, and replayed from then on.
import type { Recording } from '../core/device.ts'
import type { Parameter } from '../core/parameter.ts'
import type { Optimizer } from '../optim/optimizer.ts'

interface Part {
  recording: Recording | undefined
  /** Parameters whose gradient the part writes first: what a replay has to note on the host. */
  written: readonly Parameter[]
}

export class RecordedParts {
  readonly #optimizer: Optimizer
  readonly #parts = new Map<string, Part>()

  constructor(optimizer: Optimizer) {
    this.#optimizer = optimizer
  }

  /** Runs `body`, which must make the same kernel calls whenever it runs under this name. */
  run(name: string, body: () => void): void {
    const { device } = this.#optimizer.scalars
    const part = this.#parts.get(name)
    if (device.record === undefined || part === undefined) {
      body()
      if (device.record !== undefined) this.#parts.set(name, { recording: undefined, written: [] })
      return
    }
    if (part.recording === undefined) {
      device.settle?.()
      const before = new Set(this.#withGradient())
      part.recording = device.record(body)
      part.written = this.#withGradient().filter((parameter) => !before.has(parameter))
    }
    for (const parameter of part.written) parameter.hasGradient = true
    part.recording.replay()
  }

  #withGradient(): Parameter[] {
    return this.#optimizer.arenas.flatMap(({ segments }) =>
      segments.map(({ parameter }) => parameter).filter((parameter) => parameter.hasGradient),
    )
  }

  release(): void {
    for (const { recording } of this.#parts.values()) recording?.release()
    this.#parts.clear()
  }
}
