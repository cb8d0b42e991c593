// trainyard verify resume: kills training with SIGKILL at random moments, inside checkpoint writes too, lets it go on, and
// compares the bits of the end with those of a run that nobody disturbed.
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { checkpointsFolder, listCheckpoints, MARKER } from '../checkpoint/store.ts'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { TrainyardError } from '../core/errors.ts'
import { randomKey, randomUniform } from '../core/random.ts'
import { type DeviceChoice, deviceFields, refuseForeignOptions } from './device-fields.ts'
import { ProgressLine } from './progress.ts'

const whole = z.number().int().min(1)

export default defineRecipe({
  name: 'verify resume',
  summary: 'kill a run again and again, and prove that it ends in the same bits',
  description:
    'Trains a small model on your data once without disturbance, then again while the process is killed with SIGKILL: half of the times at a random moment, half right when a checkpoint is being written or put in place. Every start must go on from a whole checkpoint, and weights and optimizer must end in the very same bits. Everything happens in a temporary folder.',
  examples: [
    { command: 'verify resume --data data/books --kills 20', does: 'prove it on your disk' },
    { command: 'verify resume --data data/books --device cuda', does: 'prove it on your card' },
  ],
  config: z.object({
    data: field(z.string().min(1), { describe: 'folder that data prepare made', example: 'data/books' }),
    kills: field(whole.default(20), { describe: 'how often to kill' }),
    maxSteps: field(whole.default(24), { describe: 'length of a run', unit: 'steps' }),
    saveEverySteps: field(whole.default(2), { describe: 'checkpoint this often', unit: 'steps' }),
    depth: field(whole.default(2), { describe: 'layers of the model', unit: 'layers' }),
    dropout: field(z.number().min(0).max(0.9).default(0.1), { describe: 'randomness that must be resumed too' }),
    seed: field(z.number().int().min(0).default(1), { describe: 'of the moments of the kills' }),
    device: deviceFields.device,
    precision: deviceFields.precision,
    threads: deviceFields.threads,
  }),
  async run(options, context) {
    refuseForeignOptions(options)
    const folder = mkdtempSync(join(tmpdir(), 'trainyard-verify-resume-'))
    try {
      await prove(options, folder, context)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  },
})

interface Options {
  data: string
  kills: number
  maxSteps: number
  saveEverySteps: number
  depth: number
  dropout: number
  seed: number
  device: DeviceChoice['device']
  precision: DeviceChoice['precision']
  threads?: DeviceChoice['threads']
}

/** Enough for every product of the model to be seen, timed and chosen. */
const STEPS_THAT_CHOOSE = 3

async function prove(options: Options, folder: string, context: RunContext): Promise<void> {
  const words = (out: string, maxSteps = options.maxSteps): string[] => [
    'pretrain',
    ...['--data', resolve(context.cwd, options.data), '--out', out],
    ...['--max-steps', String(maxSteps), '--save-every-steps', String(options.saveEverySteps)],
    ...(options.device === 'cpu' ? [] : ['--device', options.device, '--precision', options.precision]),
    ...['--depth', String(options.depth), '--dropout', String(options.dropout), '--keep-last', '2'],
    ...['--seq-len', '64', '--batch-tokens', '2048', '--micro-batch-size', '8', '--eval-every-steps', '0'],
    ...(options.threads === undefined ? [] : ['--threads', String(options.threads)]),
    // Killed before it had a folder, it starts; with one, it goes on.
    ...(existsSync(join(out, 'config.json')) ? ['--resume'] : []),
  ]
  // The very first run of a shape on a card computes its first step before the fastest products are known.
  if (options.device !== 'cpu') await finish(start(words(join(folder, 'choosing'), STEPS_THAT_CHOOSE), context))
  const undisturbed = join(folder, 'undisturbed')
  const started = performance.now()
  await finish(start(words(undisturbed), context))
  const milliseconds = performance.now() - started
  const expected = fingerprint(undisturbed, options.maxSteps)
  context.log(`undisturbed: ${options.maxSteps} steps in ${(milliseconds / 1000).toFixed(1)} s`)

  const key = randomKey(options.seed, 'verify resume')
  let draws = 0
  const draw = (): number => randomUniform(key, draws++)
  const line = new ProgressLine(context, 'killing')
  let [kills, inWrites, runs] = [0, 0, 0]
  while (kills < options.kills && !context.signal.aborted) {
    const out = join(folder, `run-${runs}`)
    for (let isDone = false; !isDone; ) {
      const child = start(words(out), context)
      if (kills < options.kills) {
        const isAimed = draw() < 0.5
        const wasKilled = isAimed
          ? await killInWrite(child, out, draw())
          : await killAfter(child, draw() * milliseconds)
        if (wasKilled) {
          kills++
          if (isAimed) inWrites++
          checkUsable(out)
          await line.show(() => `${kills} of ${options.kills}`)
          if (context.signal.aborted) return
          continue
        }
      }
      await finish(child)
      isDone = true
    }
    if (fingerprint(out, options.maxSteps) !== expected) {
      throw new TrainyardError(
        `verify resume: after ${kills} kills, weights or optimizer differ from those of the undisturbed run; seed ${options.seed} shows it again`,
      )
    }
    rmSync(out, { recursive: true })
    runs++
  }
  line.stop()
  context.log(
    `${kills} kills, ${inWrites} of them while a checkpoint was being written; ${runs} runs ended in the bits of the undisturbed one`,
  )
}

interface Child {
  process: ChildProcess
  /** Exit code, or the signal that ended it, with what it said. */
  ended: Promise<{ code: number | null; errors: string }>
  hasEnded: boolean
}

function start(words: readonly string[], { program, env, cwd }: RunContext): Child {
  const [command, ...before] = program
  const process = spawn(command, [...before, ...words], { cwd, env, stdio: ['ignore', 'ignore', 'pipe'] })
  let errors = ''
  process.stderr!.setEncoding('utf8').on('data', (text: string) => {
    errors += text
  })
  const child: Child = { process, hasEnded: false, ended: Promise.resolve({ code: 0, errors: '' }) }
  child.ended = new Promise((resolve) =>
    process.on('close', (code) => {
      child.hasEnded = true
      resolve({ code, errors })
    }),
  )
  return child
}

async function finish(child: Child): Promise<void> {
  const { code, errors } = await child.ended
  if (code !== 0) throw new TrainyardError(`verify resume: training ended with exit code ${code}: ${errors.trim()}`)
}

/** @returns false if it had ended before */
async function killAfter(child: Child, milliseconds: number): Promise<boolean> {
  await Promise.race([child.ended, new Promise((resolve) => setTimeout(resolve, milliseconds))])
  return await kill(child)
}

async function kill(child: Child): Promise<boolean> {
  if (child.hasEnded) return false
  child.process.kill('SIGKILL')
  const { code, errors } = await child.ended
  // It may have ended well, or badly, just before.
  if (code !== null && code !== 0)
    throw new TrainyardError(`verify resume: training failed by itself: ${errors.trim()}`)
  return code === null
}

/** Waits for something to happen among the checkpoints, up to the n-th event, and kills right then. */
async function killInWrite(child: Child, out: string, luck: number): Promise<boolean> {
  let events = 1 + Math.floor(luck * 12)
  let before = namesIn(out)
  while (!child.hasEnded) {
    const now = namesIn(out)
    if (now !== before && --events <= 0) return await kill(child)
    before = now
    await new Promise((resolve) => setImmediate(resolve))
  }
  return false
}

/** The checkpoints folder and what is being written in it, as one text that changes with every file. */
function namesIn(out: string): string {
  const parent = checkpointsFolder(out)
  try {
    const names = readdirSync(parent)
    const inside = names.filter((name) => name.startsWith('.')).flatMap((name) => readdirSync(join(parent, name)))
    return [...names, ...inside].join('\n')
  } catch {
    // Not there yet, or gone between the two looks.
    return ''
  }
}

/** After a kill nothing may look finished that is not. @throws TrainyardError */
function checkUsable(out: string): void {
  for (const { step, problem } of listCheckpoints(out)) {
    if (problem !== undefined) throw new TrainyardError(`verify resume: a kill left a broken step ${step}: ${problem}`)
  }
}

/** The hashes of weights and optimizer at the end of a run. */
function fingerprint(out: string, step: number): string {
  const path = join(checkpointsFolder(out), `step-${step}`, MARKER)
  const { files } = JSON.parse(readFileSync(path, 'utf8')) as { files: Record<string, { sha256: string }> }
  const tensors = Object.entries(files).filter(([name]) => name.endsWith('.safetensors'))
  return tensors.map(([name, { sha256 }]) => `${name} ${sha256}`).join('\n')
}
