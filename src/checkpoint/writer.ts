// Writes checkpoints on a thread of its own, one at a time: training waits for the copy out of device memory, and only
// where the one before is not written yet for the disk.
import { getCompileCacheDir } from 'node:module'
import { Worker } from 'node:worker_threads'
import { CheckpointError } from '../core/errors.ts'
import type { Snapshot } from './snapshot.ts'

/** V8 gives back a young generation seldom: a small one stays small. */
const YOUNG_GENERATION_MB = 2

interface Answer {
  folder?: string
  problem?: string
}

export class CheckpointWriter {
  #worker: Worker | undefined
  #pending: Promise<string> | undefined

  /**
   * Starts the thread, if it does not run yet, and waits until it has loaded its code: what it takes from memory besides
   * snapshots is then taken. `write` does without.
   */
  async start(): Promise<void> {
    if (this.#worker !== undefined) return
    await this.#ask<object>(undefined, [])
  }

  /**
   * Waits for the checkpoint before, then takes a snapshot and hands it over: its arrays are gone afterwards, and there
   * is never more than one.
   * @throws CheckpointError if the one *before* could not be written; this one is then handed over all the same
   */
  async write(take: () => Promise<Snapshot>): Promise<void> {
    const before = await this.#settle()
    this.#pending = this.#send(await take())
    // Whoever waits is told; nobody waiting is no unhandled rejection.
    this.#pending.catch(() => {})
    if (before !== undefined) throw before
  }

  /**
   * Waits for what is being written. @returns its folder, if there was one
   * @throws CheckpointError if it could not be written
   */
  async finish(): Promise<string | undefined> {
    const pending = this.#pending
    this.#pending = undefined
    return await pending
  }

  /** Ends the thread. What is still being written is lost; `finish` first. */
  async close(): Promise<void> {
    await this.#worker?.terminate()
    this.#worker = undefined
  }

  async #settle(): Promise<Error | undefined> {
    try {
      await this.finish()
      return undefined
    } catch (error) {
      return error as Error
    }
  }

  async #send(snapshot: Snapshot): Promise<string> {
    const arrays = snapshot.folders.flatMap(({ tensors }) => tensors.map(({ values }) => values.buffer as ArrayBuffer))
    try {
      const { folder, problem } = await this.#ask<Answer>(snapshot, arrays)
      if (folder === undefined) throw new CheckpointError(problem ?? 'unknown')
      return folder
    } catch (error) {
      if (error instanceof CheckpointError) throw error
      throw new CheckpointError(
        `checkpoint of step ${snapshot.step}: its thread ended: ${(error as Error).message}; the next one has a new thread`,
        { cause: error },
      )
    }
  }

  /** One message to the thread and its answer. @throws what ended the thread, if something did */
  #ask<T>(message: unknown, transfer: ArrayBuffer[]): Promise<T> {
    this.#worker ??= new Worker(new URL('./writer-worker.ts', import.meta.url), {
      // What it makes beside the arrays it is given is small.
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
      workerData: { compileCache: getCompileCacheDir?.() },
    })
    const worker = this.#worker
    return new Promise((resolve, reject) => {
      const done = (act: () => void): void => {
        worker.off('message', onMessage)
        worker.off('error', onError)
        worker.unref()
        act()
      }
      const onMessage = (answer: T): void => done(() => resolve(answer))
      const onError = (error: Error): void =>
        done(() => {
          this.#worker = undefined
          reject(error)
        })
      worker.on('message', onMessage)
      worker.on('error', onError)
      // The program must not end while a checkpoint is being written.
      worker.ref()
      worker.postMessage(message, transfer)
    })
  }
}
