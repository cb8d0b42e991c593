// Training steps of the CPU shapes beside PyTorch, from the same weights on the same tokens: losses of both, tokens/s of
// both, and the ratio. The two run in turns, each round in a process of its own, so that a disturbance meets both.
//   node bench/versus-torch.ts [char] [10M] [124M] [--python /usr/bin/python3] [--rounds 3] [--threads 2]
// The peer is whatever `import torch` gives in that Python: on Debian 12, apt install python3-torch libopenblas0-pthread
// (without OpenBLAS that PyTorch is several times slower).
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { saveHfFolder } from '../src/checkpoint/hf.ts'
import { openDevice } from '../src/open.ts'
import { BENCH_LR, CPU_SHAPES, openShape, undisturbed } from '../src/train/bench-shapes.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    python: { type: 'string', default: 'python3' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string', default: '2' },
    precision: { type: 'string', default: 'f32' },
    /** Ours in a child process: the shape to time and the folder to write its weights into. */
    child: { type: 'string' },
  },
})

interface Timing {
  version: string
  losses: number[]
  ms: number[]
  peak?: number
}

/** Steps of one process: the first warms up, and the losses of all are compared. */
const stepsOf = (name: string): number => (name === '124M' ? 4 : name === '10M' ? 10 : 40)

async function timeOurs(name: string, folder: string): Promise<Timing> {
  const device = await openDevice('cpu', {
    threads: Number(values.threads),
    matmulPrecision: values.precision === 'bf16' ? 'bf16' : 'f32',
  })
  const { model, batch, step } = await openShape(device, CPU_SHAPES[name]!)
  await saveHfFolder(model, model.config, {}, folder, { maxShardBytes: 2 ** 32 })
  const path = join(folder, 'config.json')
  const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
  config.bench = { lr: BENCH_LR, betas: [0.9, 0.999], weight_decay: 0.01 }
  writeFileSync(path, JSON.stringify(config))
  writeFileSync(join(folder, 'tokens.bin'), batch.tokens)
  writeFileSync(join(folder, 'targets.bin'), batch.targets)
  const timing: Timing = { version: process.versions.node, losses: [], ms: [], peak: device.measurePeakFlops().f32 }
  for (let i = 0; i < stepsOf(name); i++) {
    const start = performance.now()
    timing.losses.push(await step())
    timing.ms.push(performance.now() - start)
  }
  timing.peak = Math.max(timing.peak!, device.measurePeakFlops().f32)
  device.close()
  return timing
}

async function run(command: string, args: string[]): Promise<Timing> {
  const { stdout } = await promisify(execFile)(command, args, { maxBuffer: 1 << 24 })
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as Timing
}

async function compare(name: string): Promise<void> {
  const shape = CPU_SHAPES[name]
  if (shape === undefined) {
    throw new Error(`bench/versus-torch: shape must be one of ${Object.keys(CPU_SHAPES).join(', ')}, got ${name}`)
  }
  const folder = mkdtempSync(join(tmpdir(), 'trainyard-versus-torch-'))
  const [ours, theirs]: [Timing[], Timing[]] = [[], []]
  try {
    const script = join(import.meta.dirname, 'torch_step.py')
    const self = [import.meta.filename, name, '--child', folder, '--threads', values.threads]
    for (let round = 0; round < Number(values.rounds); round++) {
      ours.push(await run(process.execPath, [...self, '--precision', values.precision]))
      theirs.push(await run(values.python, [script, folder, String(stepsOf(name)), values.threads]))
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  const meta = await openDevice('cpu', { threads: 1 })
  const { tokensPerStep, flopsPerStep } = await openShape(meta, shape)
  meta.close()
  const peak = Math.max(...ours.map((timing) => timing.peak!))
  const best = (timings: Timing[]): number => undisturbed(timings.flatMap(({ ms }) => ms.slice(1)))
  const [a, b] = [best(ours), best(theirs)]
  const losses = ours[0]!.losses.map((loss, i) => Math.abs(loss - theirs[0]!.losses[i]!))
  const row = (who: string, ms: number): string =>
    `${name.padEnd(5)} ${who.padEnd(22)} ${ms.toFixed(1).padStart(8)} ms/step ${((tokensPerStep / ms) * 1e3).toFixed(0).padStart(7)} tok/s ${(flopsPerStep / ms / 1e6).toFixed(0).padStart(4)} GFLOP/s`
  console.log(`${row(`trainyard, ${values.precision}`, a)}  ${((flopsPerStep / a / peak) * 1e5).toFixed(1)} % of peak`)
  console.log(row(`torch ${theirs[0]!.version}`, b))
  console.log(
    `${name.padEnd(5)} ${(b / a).toFixed(2)} times as fast; loss ${ours[0]!.losses[0]!.toFixed(4)} -> ${ours[0]!.losses.at(-1)!.toFixed(4)}, at most ${Math.max(...losses).toExponential(1)} apart in ${losses.length} steps`,
  )
}

if (values.child !== undefined) console.log(JSON.stringify(await timeOurs(positionals[0]!, values.child)))
else for (const name of positionals.length > 0 ? positionals : Object.keys(CPU_SHAPES)) await compare(name)
