// Writes checkpoints on a thread of its own, one at a time: training waits for the copy out of device memory, and only
// where the one before is not written yet for the disk.
import { Worker } from 'node:worker_threads'
import { CheckpointError } from '../core/errors.ts'
import type { Snapshot } from './snapshot.ts'

interface Answer {
  folder?: string
  problem?: string
}

export class CheckpointWriter {
  #worker: Worker | undefined
  #pending: Promise<string> | undefined

  /**
   * Hands a snapshot over, whose arrays are gone afterwards. Waits for the one before.
   * @throws CheckpointError if the one *before* could not be written; this one is then handed over all the same
   */
  async write(snapshot: Snapshot): Promise<void> {
    const before = await this.#settle()
    this.#pending = this.#send(snapshot)
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

  #send(snapshot: Snapshot): Promise<string> {
    this.#worker ??= new Worker(new URL('./writer-worker.ts', import.meta.url))
    const worker = this.#worker
    return new Promise((resolve, reject) => {
      const done = (act: () => void): void => {
        worker.off('message', onMessage)
        worker.off('error', onError)
        worker.unref()
        act()
      }
      const onMessage = ({ folder, problem }: Answer): void =>
        done(() => (folder === undefined ? reject(new CheckpointError(problem ?? 'unknown')) : resolve(folder)))
      const onError = (error: Error): void =>
        done(() => {
          this.#worker = undefined
          reject(new CheckpointError(`checkpoint of step ${snapshot.step}: its thread ended: ${error.message}`))
        })
      worker.on('message', onMessage)
      worker.on('error', onError)
      // The program must not end while a checkpoint is being written.
      worker.ref()
      const arrays = snapshot.folders.flatMap(({ tensors }) =>
        tensors.map(({ values }) => values.buffer as ArrayBuffer),
      )
      worker.postMessage(snapshot, arrays)
    })
  }
}
