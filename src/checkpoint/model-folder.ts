// From what a user names (a run, a checkpoint of it, a Hugging Face folder) to the folder that holds the model.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { CheckpointError } from '../core/errors.ts'
import { checkpointsFolder, MARKER, newestComplete, verifyCheckpoint } from './store.ts'

export interface ModelFolder {
  readonly folder: string
  /** Sentences for the user: newer checkpoints that had to be passed over. */
  readonly warnings: readonly string[]
}

/**
 * A run gives its newest complete checkpoint, a checkpoint is verified by its hashes, any other folder must hold a
 * config.json.
 * @throws CheckpointError if there is no model, or the named checkpoint is damaged
 */
export function findModelFolder(path: string): ModelFolder {
  if (existsSync(checkpointsFolder(path))) {
    const { checkpoint, skipped } = newestComplete(path)
    const warnings = skipped.map(({ step, problem }) => `checkpoint of step ${step} is passed over: ${problem}`)
    if (checkpoint !== undefined) return { folder: checkpoint.path, warnings }
    throw new CheckpointError(`${path}: the run has no complete checkpoint; ${warnings[0] ?? 'none was written yet'}`)
  }
  if (existsSync(join(path, MARKER))) verifyCheckpoint(path)
  if (existsSync(join(path, 'config.json'))) return { folder: path, warnings: [] }
  throw new CheckpointError(
    `${path}: expected a run, a checkpoint or a Hugging Face folder, but there is no ${existsSync(path) ? 'config.json in it' : 'such folder'}`,
  )
}
