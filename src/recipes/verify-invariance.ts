// trainyard verify invariance: proves on the user's data that loss and gradients do not depend on how a batch is cut.
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { readHfConfig } from '../checkpoint/hf-config.ts'
import { findModelFolder } from '../checkpoint/model-folder.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { TrainyardError } from '../core/errors.ts'
import { TokenDataset } from '../data/dataset.ts'
import { openDevice } from '../open.ts'
import { checkInvariance, INVARIANCE_TOLERANCE } from '../train/invariance.ts'
import { modelConfig, modelFromDepth } from '../train/settings.ts'

const whole = z.number().int().min(1)

export default defineRecipe({
  name: 'verify invariance',
  summary: 'prove that loss and gradients do not depend on micro-batches and packing',
  description:
    'Takes one global batch of your data and computes its loss and all gradients with the batch whole, cut into micro-batches of two sizes, and packed differently. All must agree to a stated tolerance. A variant that is wrong on purpose (a mean of per-micro-batch means) must fail the same check; if it passes, the documents are too even for the check to mean anything.',
  examples: [{ command: 'verify invariance --data data/books', does: 'check before a long run' }],
  config: z.object({
    data: field(z.string().min(1), { describe: 'folder that data prepare made', example: 'data/books' }),
    model: field(z.string().min(1).optional(), {
      describe: 'run or Hugging Face folder whose architecture to check (from random weights); default: by depth',
      example: 'runs/books',
    }),
    depth: field(whole.default(2), { describe: 'layers of the model to check with', unit: 'layers' }),
    seqLen: field(whole.default(128), { describe: 'context', unit: 'tokens' }),
    rows: field(z.number().int().min(4).default(16), { describe: 'sequences of the global batch', unit: 'sequences' }),
    step: field(z.number().int().min(0).optional(), {
      describe: 'step of the data order to take; default the first whose rows train different numbers of tokens',
      example: 0,
    }),
    seed: field(z.number().int().min(0).default(42), { describe: 'of weights and data order' }),
    threads: field(whole.optional(), { describe: 'CPU threads; default all', example: 2 }),
  }),
  async run({ data, model, depth, seqLen, rows, step, seed, threads }, context) {
    const dataset = TokenDataset.open(join(resolve(context.cwd, data), 'train'))
    const { vocabSize } = dataset.manifest.tokenizer
    const config =
      model === undefined
        ? modelConfig(modelFromDepth(depth, seqLen), { vocabSize })
        : readHfConfig(findModelFolder(resolve(context.cwd, model)).folder)
    const device = await openDevice('cpu', threads === undefined ? {} : { threads })
    const table = await checkInvariance({ device, config, dataset, seqLen, rows, seed, step })
    const width = Math.max(...table.map(({ name }) => name.length))
    context.log(`${'division of the batch'.padEnd(width)}  loss        loss diff  gradient diff`)
    for (const { name, loss, lossDifference, gradientDifference, isEqual, isPlantedFault } of table) {
      const verdict = isPlantedFault ? (isEqual ? 'NOT CAUGHT' : 'caught') : isEqual ? 'equal' : 'DIFFERENT'
      const numbers = `${loss.toFixed(8)}  ${lossDifference.toExponential(1)}    ${gradientDifference.toExponential(1)}`
      context.log(`${name.padEnd(width)}  ${numbers.padEnd(33)}  ${verdict}`)
    }
    const wrong = table.filter((row) => !row.isPlantedFault && !row.isEqual)
    if (wrong.length > 0) {
      throw new TrainyardError(
        `verify invariance: ${wrong[0]!.name} differs from the whole batch by more than ${INVARIANCE_TOLERANCE}: do not train with this set-up, and report it`,
      )
    }
    if (table.some((row) => row.isPlantedFault && row.isEqual)) {
      throw new TrainyardError(
        'verify invariance: the planted fault was not noticed, because the rows of this batch train equally many tokens; take another --step or longer documents',
      )
    }
    context.log(`equal within ${INVARIANCE_TOLERANCE}, and the planted fault was caught`)
  },
})
