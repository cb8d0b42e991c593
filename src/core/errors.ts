// The error classes of Trainyard. Each message is one sentence: who, what was expected, what came,
// what to do. Fields are kept as data so that a caller can act on them. `invariant` is only for our own bugs.
import { oneLine } from './one-line.ts'

/** Longer messages lose their middle: a name or a value that came from a file may be of any length. */
const MAX_SENTENCE_LENGTH = 800

/**
 * Base of every error that is the user's to fix (or that names a failing machine), never a bug of ours.
 * `message` becomes one line whatever it holds; a list of messages becomes a line each.
 */
export class TrainyardError extends Error {
  override readonly name: string = 'TrainyardError'

  constructor(message: string | readonly string[], options?: ErrorOptions) {
    super(
      [message]
        .flat()
        .map((text) => oneLine(text, MAX_SENTENCE_LENGTH))
        .join('\n'),
      options,
    )
  }
}

/** A tensor has the wrong shape for an operation. */
export class ShapeError extends TrainyardError {
  override readonly name = 'ShapeError'
}

/** A tensor has the wrong element type for an operation. */
export class DtypeError extends TrainyardError {
  override readonly name = 'DtypeError'
}

/** A configuration value (flag, YAML key, config.json field) is unknown, missing or out of range. */
export class ConfigError extends TrainyardError {
  override readonly name = 'ConfigError'
}

/** A device, a kernel library or the machine's memory failed. */
export class DeviceError extends TrainyardError {
  override readonly name = 'DeviceError'
}

/** A checkpoint or a weights file is missing, incomplete or damaged. */
export class CheckpointError extends TrainyardError {
  override readonly name = 'CheckpointError'
}

/** Training data, a shard or a manifest is missing, damaged or does not fit the run. */
export class DataError extends TrainyardError {
  override readonly name = 'DataError'
}

/** A tokenizer file is damaged or of a kind that is not supported. */
export class TokenizerError extends TrainyardError {
  override readonly name = 'TokenizerError'
}

/** Throws when `condition` is false: a bug of Trainyard itself, not of its user. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`internal error: ${message}`)
}
