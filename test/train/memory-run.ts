// A pretraining of random tokens by the real program, and what it took from memory: by its own account, by its plan, and
// as seen from outside. For a test and for bench/memory.ts.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { CpuShape } from '../../src/train/bench-shapes.ts'
import { PROGRAM } from '../cli/program.ts'
import { writeRandomData } from '../data/fixtures.ts'

const MIB = 2 ** 20
const LOOK_EVERY_MS = 3

export interface MemoryRun {
  readonly status: number | null
  readonly stdout: string
  /** Highest anonymous memory in bytes: seen from outside, as the run recorded it, and as it was predicted. */
  readonly seen: number
  readonly recorded: number
  readonly predicted: number
}

/** What a prediction may be off: 3 %, or 32 MiB where that is more. */
export function allowedError(bytes: number): number {
  return Math.max(0.03 * bytes, 32 * MIB)
}

/** Trains in `cwd`, an empty folder. Linux only: looks into /proc. */
export async function runForMemory(
  { vocabSize, hiddenSize, numHiddenLayers, numAttentionHeads, seqLen, batchSize }: CpuShape,
  days: { maxSteps: number; saveEverySteps: number; evalEverySteps: number; threads: number },
  cwd: string,
): Promise<MemoryRun> {
  writeRandomData(join(cwd, 'data'), { vocabSize, trainTokens: 100_000, validationTokens: 4000 })
  const numbers = {
    'model.hidden-size': hiddenSize,
    'model.num-attention-heads': numAttentionHeads,
    depth: numHiddenLayers,
    'seq-len': seqLen,
    'micro-batch-size': batchSize,
    'batch-tokens': batchSize * seqLen,
    'max-steps': days.maxSteps,
    'save-every-steps': days.saveEverySteps,
    'eval-every-steps': days.evalEverySteps,
    'eval-documents': 1,
    threads: days.threads,
  }
  const words = Object.entries(numbers).flatMap(([name, value]) => [`--${name}`, String(value)])
  const child = spawn(
    process.execPath,
    [PROGRAM, 'pretrain', '--data', 'data', '--out', 'run', '--model.family', 'gpt2', ...words],
    { cwd, stdio: ['ignore', 'pipe', 'inherit'] },
  )
  let stdout = ''
  child.stdout.on('data', (chunk) => {
    stdout += chunk
  })
  let seen = 0
  const looking = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8')
      seen = Math.max(seen, 1024 * Number(/^RssAnon:\s+(\d+)/m.exec(status)?.[1] ?? 0))
    } catch {
      // It has ended.
    }
  }, LOOK_EVERY_MS)
  const [status] = (await once(child, 'close')) as [number | null]
  clearInterval(looking)
  if (status !== 0) return { status, stdout, seen, recorded: 0, predicted: 0 }
  const actual = JSON.parse(readFileSync(join(cwd, 'run', 'actual.json'), 'utf8')) as Record<string, number>
  return {
    status,
    stdout,
    seen,
    recorded: actual.peakAnonymousBytes!,
    predicted: actual.predictedAnonymousBytes!,
  }
}
