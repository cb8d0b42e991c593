// trainyard verify checkpoint: reads every file of a run's checkpoints, or of one, against the hashes it was written with.
import { existsSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import { z } from 'zod'
import { checkpointsFolder, listCheckpoints, MARKER, newestComplete, verifyCheckpoint } from '../checkpoint/store.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { CheckpointError } from '../core/errors.ts'

export default defineRecipe({
  name: 'verify checkpoint',
  summary: 'check the hashes of checkpoints and say which can be used',
  description:
    'Takes a run, or one checkpoint of it. Every file must be there, of the right size and with the SHA-256 that was noted when it was written. Fails if a checkpoint is damaged, and says which one a resumed run would use. Changes nothing.',
  examples: [
    { command: 'verify checkpoint runs/books', does: 'all checkpoints of a run' },
    { command: 'verify checkpoint runs/books/checkpoints/step-200', does: 'one of them' },
  ],
  config: z.object({
    path: field(z.string().min(1), { describe: 'run or checkpoint', example: 'runs/books' }),
  }),
  positional: ['path'],
  async run({ path }, context) {
    const folder = resolve(context.cwd, path)
    if (existsSync(resolve(folder, MARKER)) || /^step-\d+$/.test(basename(folder))) {
      verifyCheckpoint(folder)
      context.log(`${path}: whole, every file as it was written`)
      return
    }
    const found = listCheckpoints(folder)
    if (found.length === 0) {
      throw new CheckpointError(
        `verify checkpoint: expected a run or a checkpoint, but ${checkpointsFolder(folder)} holds none`,
      )
    }
    let damaged = 0
    for (const { step, path: checkpoint, problem } of found) {
      const wrong = problem ?? problemOf(checkpoint)
      if (wrong !== undefined) damaged++
      context.log(`step ${step}: ${wrong === undefined ? 'whole' : `cannot be used: ${wrong}`}`)
    }
    const { checkpoint } = newestComplete(folder)
    context.log(
      checkpoint === undefined
        ? 'a resumed run would start anew'
        : `a resumed run would go on from step ${checkpoint.step}`,
    )
    if (damaged > 0) {
      throw new CheckpointError(
        `verify checkpoint: ${damaged} of ${found.length} checkpoints of ${path} cannot be used`,
      )
    }
  },
})

function problemOf(folder: string): string | undefined {
  try {
    verifyCheckpoint(folder)
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}
