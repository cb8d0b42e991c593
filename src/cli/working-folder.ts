// The folder that paths of the command line are relative to.
import { ConfigError } from '../core/errors.ts'

/** @throws ConfigError where somebody has removed it */
export function workingFolder(): string {
  try {
    return process.cwd()
  } catch (error) {
    throw new ConfigError('trainyard: the folder that it was started in has been removed: cd to one that is there', {
      cause: error,
    })
  }
}
