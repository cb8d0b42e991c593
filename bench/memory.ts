// Peak memory of pretraining on the three CPU shapes: what the plan says beside what the process took, seen from outside.
// Each shape is a run of the real program in a process of its own, with checkpoints written beside training.
//   node bench/memory.ts [--shapes char,10M,124M] [--threads 2] [--folder a folder with 5 GB of room]
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { ShardWriter } from '../src/data/shards.ts'
import { formatBytes } from '../src/display/format.ts'
import { CPU_SHAPES, type CpuShape } from '../src/train/bench-shapes.ts'

const { values } = parseArgs({
  options: {
    shapes: { type: 'string', default: Object.keys(CPU_SHAPES).join(',') },
    threads: { type: 'string', default: '2' },
    folder: { type: 'string', default: tmpdir() },
  },
})
const program = fileURLToPath(new URL('../tools/trainyard.mjs', import.meta.url))
/** Steps and checkpoints: a second snapshot must not find the first one still there. */
const STEPS: Readonly<Record<string, [maxSteps: number, saveEverySteps: number]>> = {
  char: [120, 20],
  '10M': [12, 3],
  '124M': [4, 1],
}
const LOOK_EVERY_MS = 3
const TOLERANCE = { part: 0.03, bytes: 32 << 20 }

/** Random tokens in documents of 500. */
function writeData(folder: string, vocabSize: number): void {
  let state = 1
  const next = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * vocabSize)
  }
  for (const split of ['train', 'validation']) {
    const writer = new ShardWriter(join(folder, split), { split, tokenizer: { hash: 'random', vocabSize } })
    for (let document = 0; document < (split === 'train' ? 200 : 8); document++) {
      writer.add(Array.from({ length: 500 }, next), 1000)
    }
    writer.finish({ sources: [], dropped: {}, replacedBytes: 0, dropExamples: [] })
  }
}

function wordsOf(name: string, shape: CpuShape): string[] {
  const [maxSteps, saveEverySteps] = STEPS[name]!
  const numbers = {
    'model.hidden-size': shape.hiddenSize,
    'model.num-attention-heads': shape.numAttentionHeads,
    depth: shape.numHiddenLayers,
    'seq-len': shape.seqLen,
    'micro-batch-size': shape.batchSize,
    'batch-tokens': shape.batchSize * shape.seqLen,
    'max-steps': maxSteps,
    'save-every-steps': saveEverySteps,
    'eval-every-steps': Math.ceil(maxSteps / 2),
    'eval-documents': 1,
    threads: values.threads,
  }
  return ['--model.family', 'gpt2', ...Object.entries(numbers).flatMap(([key, value]) => [`--${key}`, String(value)])]
}

/** Highest anonymous memory of a process that this one has started, until it ends. */
async function watch(command: readonly string[], cwd: string): Promise<number> {
  const child = spawn(process.execPath, command, { cwd, stdio: ['ignore', 'ignore', 'inherit'] })
  let peak = 0
  const looking = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8')
      peak = Math.max(peak, 1024 * Number(/^RssAnon:\s+(\d+)/m.exec(status)?.[1] ?? 0))
    } catch {
      // It has ended.
    }
  }, LOOK_EVERY_MS)
  const [code] = await once(child, 'close')
  clearInterval(looking)
  if (code !== 0) throw new Error(`the run ended with exit code ${code}`)
  return peak
}

console.log('shape   predicted    from inside  from outside  error        allowed')
for (const name of values.shapes.split(',')) {
  const shape = CPU_SHAPES[name]!
  const folder = mkdtempSync(join(values.folder, 'trainyard-memory-'))
  try {
    writeData(join(folder, 'data'), shape.vocabSize)
    const words = [program, 'pretrain', '--data', 'data', '--out', 'run', ...wordsOf(name, shape)]
    const outside = await watch(words, folder)
    const json = JSON.parse(readFileSync(join(folder, 'run', 'actual.json'), 'utf8')) as Record<string, number>
    const { predictedAnonymousBytes: predicted = 0, peakAnonymousBytes: inside = 0 } = json
    const error = predicted - outside
    const allowed = Math.max(TOLERANCE.part * outside, TOLERANCE.bytes)
    const column = (bytes: number): string => formatBytes(bytes).padEnd(13)
    console.log(
      `${name.padEnd(8)}${column(predicted)}${column(inside)}${column(outside)} ${column(error)}${formatBytes(allowed)} ${Math.abs(error) <= allowed ? 'ok' : 'MISSED'}`,
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
