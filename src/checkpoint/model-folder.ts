// From what a user names (a run, a checkpoint of it, a Hugging Face folder) to the folder that holds the model.
import { existsSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { CheckpointError } from '../core/errors.ts'
import {
  bestComplete,
  checkpointsFolder,
  type FoundCheckpoint,
  MARKER,
  newestComplete,
  verifyCheckpoint,
} from './store.ts'

export interface ModelFolder {
  readonly folder: string
  /** Sentences for the user: newer checkpoints that had to be passed over. */
  readonly warnings: readonly string[]
}

/** `<run>/best`: no folder, but a name for the checkpoint of the lowest held-out loss. */
const BEST = 'best'

/**
 * A run gives its newest complete checkpoint, `<run>/best` the complete one of the lowest held-out loss, a checkpoint is
 * verified by its hashes, any other folder must hold a config.json.
 * @throws CheckpointError if there is no model, or the named checkpoint is damaged
 */
export function findModelFolder(path: string): ModelFolder {
  if (existsSync(checkpointsFolder(path))) {
    return found(newestComplete(path), `${path}: the run has no complete checkpoint`, 'none was written yet')
  }
  const run = dirname(path)
  if (basename(path) === BEST && !existsSync(path) && existsSync(checkpointsFolder(run))) {
    const cure = 'train with --keep-best 1'
    return found(bestComplete(run), `${run}: no complete checkpoint of the run has a held-out loss`, cure)
  }
  if (existsSync(join(path, MARKER))) verifyCheckpoint(path)
  if (existsSync(join(path, 'config.json'))) return { folder: path, warnings: [] }
  throw new CheckpointError(
    `${path}: expected a run, a checkpoint or a Hugging Face folder, but there is no ${existsSync(path) ? 'config.json in it' : 'such folder'}`,
  )
}

function found({ checkpoint, skipped }: FoundCheckpoint, problem: string, cure: string): ModelFolder {
  const warnings = skipped.map(({ step, problem }) => `checkpoint of step ${step} is passed over: ${problem}`)
  if (checkpoint !== undefined) return { folder: checkpoint.path, warnings }
  throw new CheckpointError(`${problem}; ${warnings[0] ?? cure}`)
}
