// Which of several ways to compute the same thing is fastest: timed in turns on the card, and kept on disk by card,
// library version and shape, so that every later run computes with the same algorithms and so with the same bits.
import { createHash, randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DeviceError } from '../../core/errors.ts'
import type { Algorithm } from './cublaslt.ts'
import type { CudaRuntime } from './runtime.ts'

/** How a product is computed: by which route (matmul.ts), with which of cuBLASLt's algorithms. */
export interface Choice {
  readonly route: string
  /** Absent for the plain kernel. */
  readonly algorithm: Algorithm | undefined
}

interface StoredChoice {
  readonly route: string
  readonly code?: string
  readonly workspaceBytes?: number
}

/** A candidate of the search. */
export interface Contender {
  prepare(): void
  /** Launches on the given copy of the operands. */
  run(copy: number): void
}

/** Milliseconds that one measurement of a contender should last, and how many the best of them get. */
const MEASURE_MS = 3
const ROUNDS = 5
/**
 * Contenders that are so much slower in the first round leave: not fewer, because a card that has rested is up to 12 %
 * faster for its first tenths of a second (H100: 763 against 680 TFLOP/s of the same algorithms), and the first contender
 * has that for itself.
 */
const DROPPED_ABOVE = 1.15
const WARM_UP_MS = 30

/**
 * Microseconds of one run of each, Infinity for one that fails. Contenders are measured in turns, so that a change of
 * the card's clock meets all of them; copies are used in turns, so that the second-level cache holds none of them.
 */
export function timeContenders(runtime: CudaRuntime, contenders: readonly Contender[], copies: number): number[] {
  let copy = 0
  const measure = (contender: Contender, count: number): number => {
    contender.prepare()
    const milliseconds = runtime.time(() => {
      for (let i = 0; i < count; i++) contender.run(copy++ % copies)
    })
    return (milliseconds * 1000) / count
  }
  const isRefused = contenders.map((contender) => {
    try {
      measure(contender, 1)
      return false
    } catch (error) {
      // Some candidates turn out to be none for this shape when they are launched.
      if (error instanceof DeviceError) return true
      throw error
    }
  })
  const first = contenders.findIndex((_, i) => !isRefused[i])
  if (first < 0) return contenders.map(() => Number.POSITIVE_INFINITY)
  for (let spent = 0; spent < WARM_UP_MS; ) spent += (measure(contenders[first]!, 4) * 4) / 1000
  const rough = contenders.map((contender, i) => (isRefused[i] ? Number.POSITIVE_INFINITY : measure(contender, 3)))
  const best = Math.min(...rough)
  const samples = rough.map((): number[] => [])
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, contender] of contenders.entries()) {
      if (rough[i]! > best * DROPPED_ABOVE) continue
      samples[i]!.push(measure(contender, Math.max(2, Math.ceil((MEASURE_MS * 1000) / rough[i]!))))
    }
  }
  return rough.map((time, i) => (samples[i]!.length === 0 ? time : median(samples[i]!)))
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!
}

/** Choices on disk: one file for a card and a library version. */
export class ChoiceStore {
  readonly #path: string
  readonly #title: string
  #choices: Record<string, StoredChoice>

  /** @param cacheDir  made when something is kept */
  constructor(cacheDir: string, card: string, version: number) {
    this.#title = `${card}, cuBLASLt ${version}`
    const hash = createHash('sha256').update(this.#title).digest('hex').slice(0, 16)
    this.#path = join(cacheDir, `matmul-${hash}.json`)
    this.#choices = this.#read()
  }

  get(key: string): Choice | undefined {
    const stored = this.#choices[key]
    if (stored === undefined) return undefined
    const { route, code, workspaceBytes = 0 } = stored
    return { route, algorithm: code === undefined ? undefined : { code: Buffer.from(code, 'hex'), workspaceBytes } }
  }

  /**
   * Keeps choices. Where another process has chosen for a shape in the meantime, its choice stays, so that all
   * processes of a machine come to compute alike: read them back with `get`.
   */
  keep(choices: ReadonlyMap<string, Choice>): void {
    const merged: Record<string, StoredChoice> = {}
    for (const [key, { route, algorithm }] of choices) {
      merged[key] = {
        route,
        ...(algorithm && {
          code: Buffer.from(algorithm.code).toString('hex'),
          workspaceBytes: algorithm.workspaceBytes,
        }),
      }
    }
    this.#choices = { ...this.#choices, ...merged, ...this.#read() }
    mkdirSync(join(this.#path, '..'), { recursive: true })
    const partial = `${this.#path}.${randomUUID()}.partial`
    writeFileSync(partial, `${JSON.stringify({ title: this.#title, choices: this.#choices }, null, 1)}\n`)
    renameSync(partial, this.#path)
  }

  /** What is no longer readable is made again: it is a cache. */
  #read(): Record<string, StoredChoice> {
    if (!existsSync(this.#path)) return {}
    try {
      const { title, choices } = JSON.parse(readFileSync(this.#path, 'utf8'))
      return title === this.#title ? choices : {}
    } catch {
      return {}
    }
  }
}
