// Training steps of the char shape beside @jax-js/jax on its WebAssembly backend, jitted and warmed up, from the same
// weights on the same tokens: tokens/s of both, the factor, losses of both. The two run in turns, each round in a process
// of its own, so that a disturbance meets both. The peer runs as it does in Node, on one thread, and on as many as ours
// (see jax-worker.ts); the factor is over the faster of the two. Ours runs with products in f32 and, where the processor has
// AVX512-BF16, with `--precision bf16` or `both` also with factors rounded to bf16 (storage and sums in f32).
//   TRAINYARD_JAX_JS=a-folder node bench/versus-jax.ts [--precision both] [--rounds 3] [--threads 2] [--steps 16]
// a-folder is one in which `npm install @jax-js/jax` was run; measured with 0.1.25.
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { CPU_SHAPES, undisturbed } from '../src/train/bench-shapes.ts'
import { findJax, JAX_FOLDER_VARIABLE } from './jax-api.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string', default: '2' },
    /** f32, bf16 or both. */
    precision: { type: 'string', default: 'f32' },
    /** Of the peer in a round: more than warm it up, and no more than ours does there. */
    steps: { type: 'string', default: '16' },
  },
})

const NAME = 'char'
const { batchSize, seqLen } = CPU_SHAPES[NAME]!
const tokensPerStep = batchSize * seqLen

interface Timing {
  losses: number[]
  ms: number[]
}

/** The first step compiles, the second still meets caches that are cold. */
const WARM_UP_STEPS = 2
/** What bench/versus-torch.ts times of ours in a process, at the char shape. */
const OUR_STEPS = 40

async function run(args: string[]): Promise<Timing> {
  const { stdout } = await promisify(execFile)(process.execPath, args, { maxBuffer: 1 << 24 })
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as Timing
}

const steps = Number(values.steps)
if (!(steps > WARM_UP_STEPS && steps <= OUR_STEPS)) {
  throw new Error(`bench/versus-jax: --steps must be ${WARM_UP_STEPS + 1} to ${OUR_STEPS}, got ${values.steps}`)
}
const precisions = values.precision === 'both' ? ['f32', 'bf16'] : [values.precision]
if (!precisions.every((precision) => precision === 'f32' || precision === 'bf16')) {
  throw new Error(`bench/versus-jax: --precision must be f32, bf16 or both, got ${values.precision}`)
}
const { version } = findJax(process.env[JAX_FOLDER_VARIABLE])
const threads = Number(values.threads)
const script = (file: string): string => join(import.meta.dirname, file)
const folder = mkdtempSync(join(tmpdir(), 'trainyard-versus-jax-'))
/** By precision of the products. */
const ours = new Map<string, Timing[]>(precisions.map((precision) => [precision, []]))
/** By number of threads. */
const theirs = new Map<number, Timing[]>([...new Set([1, threads])].map((count) => [count, []]))
try {
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const [precision, timings] of ours) {
      const options = ['--child', folder, '--threads', values.threads, '--precision', precision]
      timings.push(await run([script('versus-torch.ts'), NAME, ...options]))
    }
    for (const [count, timings] of theirs) {
      timings.push(await run([script('jax-step.ts'), folder, values.steps, String(count)]))
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}

const best = (timings: readonly Timing[]): number => undisturbed(timings.flatMap(({ ms }) => ms.slice(WARM_UP_STEPS)))
const row = (who: string, timings: readonly Timing[]): string => {
  const { losses } = timings[0]!
  const ms = best(timings)
  return `${NAME.padEnd(5)} ${who.padEnd(34)} ${ms.toFixed(1).padStart(8)} ms/step ${((tokensPerStep / ms) * 1e3).toFixed(0).padStart(7)} tok/s  loss ${losses[0]!.toFixed(4)} -> ${losses[steps - 1]!.toFixed(4)}`
}
const threadsText = (count: number): string => `${count} thread${count === 1 ? '' : 's'}`
for (const [precision, timings] of ours) {
  console.log(row(`trainyard, ${precision}, ${threadsText(threads)}`, timings))
}
for (const [count, timings] of theirs) console.log(row(`jax-js ${version}, wasm, ${threadsText(count)}`, timings))
const fastest = Math.min(...[...theirs.values()].map(best))
for (const [precision, timings] of ours) {
  const { losses: mine } = timings[0]!
  const apart = [...theirs.values()].flatMap((peers) =>
    peers.flatMap(({ losses }) => losses.map((loss, i) => Math.abs(loss - mine[i]!))),
  )
  console.log(
    `${NAME.padEnd(5)} ${precision}: ${(fastest / best(timings)).toFixed(2)} times as fast; losses at most ${Math.max(...apart).toExponential(1)} apart in ${values.steps} steps`,
  )
}
