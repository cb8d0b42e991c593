// Peak memory of pretraining on the three CPU shapes: what the plan says beside what the process took, seen from outside.
// Each shape is a run of the real program in a process of its own, with checkpoints written beside training.
//   node bench/memory.ts [--shapes char,10M,124M] [--threads 2] [--folder a folder with 5 GB of room]
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { formatBytes } from '../src/display/format.ts'
import { CPU_SHAPES } from '../src/train/bench-shapes.ts'
import { allowedError, runForMemory } from '../test/train/memory-run.ts'

const { values } = parseArgs({
  options: {
    shapes: { type: 'string', default: Object.keys(CPU_SHAPES).join(',') },
    threads: { type: 'string', default: '2' },
    folder: { type: 'string', default: tmpdir() },
  },
})
/** Steps and checkpoints: a second snapshot must not find the first one still there. */
const STEPS: Readonly<Record<string, [maxSteps: number, saveEverySteps: number]>> = {
  char: [120, 20],
  '10M': [12, 3],
  '124M': [4, 1],
}

console.log('shape   predicted    from inside  from outside  error        allowed')
for (const name of values.shapes.split(',')) {
  const [maxSteps, saveEverySteps] = STEPS[name]!
  const folder = mkdtempSync(join(values.folder, 'trainyard-memory-'))
  try {
    const days = { maxSteps, saveEverySteps, evalEverySteps: Math.ceil(maxSteps / 2), threads: Number(values.threads) }
    const { status, predicted, recorded, seen } = await runForMemory(CPU_SHAPES[name]!, days, folder)
    if (status !== 0) throw new Error(`the run ended with exit code ${status}`)
    const error = predicted - seen
    const allowed = allowedError(seen)
    const column = (bytes: number): string => formatBytes(bytes).padEnd(13)
    console.log(
      `${name.padEnd(8)}${column(predicted)}${column(recorded)}${column(seen)} ${column(error)}${formatBytes(allowed)} ${Math.abs(error) <= allowed ? 'ok' : 'MISSED'}`,
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
