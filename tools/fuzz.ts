// The long fuzz campaign: damaged files through every reader, and through the program. Each reader runs in a process of
// its own, so that a crash or a hang is an answer too (a wrong one) and the rest goes on.
//
//   node tools/fuzz.ts --count 20000 --seed 1             the readers; --only tokenizer: those of that name
//   node tools/fuzz.ts --cli --count 200                  the command line
//   node tools/fuzz.ts --only "token dataset" --input 7   one input again; --keep folder: and its files
import { spawn } from 'node:child_process'
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { table } from '../src/display/text.ts'
import { type Outcome, openTargets, sharesOf, Workbench } from '../test/fuzz/campaign.ts'
import { cliTargets, keepCliInput, runCli } from '../test/fuzz/cli.ts'
import { makeSeeds } from '../test/fuzz/seeds.ts'
import type { FuzzTarget } from '../test/fuzz/target.ts'

/** An input that takes longer is a hang; a slow one is told by the worker itself. */
const HANG_MS = 15_000
const POLL_MS = 250
/** A new process this often: what one input leaves in memory must not be blamed on a later one. */
const INPUTS_PER_PROCESS = 1000

const { values: args } = parseArgs({
  options: {
    count: { type: 'string' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
    input: { type: 'string' },
    keep: { type: 'string' },
    cli: { type: 'boolean', default: false },
    // How a worker is called.
    worker: { type: 'string' },
    from: { type: 'string', default: '0' },
    to: { type: 'string', default: '0' },
    results: { type: 'string', default: '' },
  },
})
const seed = Number(args.seed)

/** First line of a file of results: what comes after it is the inputs' doing. */
const READY = 'ready\n'

interface Row {
  name: string
  accepted: number
  refused: number
  wrong: { index: number; detail: string }[]
  seconds: number
}

if (args.worker !== undefined) await work(args.worker)
else if (args.input !== undefined) await runOne(Number(args.input))
else report(args.cli ? await runCommandLine(Number(args.count ?? 200)) : await runReaders(Number(args.count ?? 20_000)))

/** A worker: a line per input into the file of results. */
async function work(name: string): Promise<never> {
  const target = (await openTargets()).find((other) => other.name === name)!
  using bench = new Workbench(target, seed)
  writeFileSync(args.results, READY)
  for (let index = Number(args.from); index < Number(args.to); index++) {
    const { kind, detail } = await bench.run(index)
    appendFileSync(args.results, `${JSON.stringify({ index, kind, detail: kind === 'wrong' ? detail : '' })}\n`)
  }
  bench[Symbol.dispose]()
  process.exit(0)
}

async function runReaders(count: number): Promise<Row[]> {
  const rows: Row[] = []
  for (const [target, share] of sharesOf(await openTargets(), count)) {
    if (!target.name.includes(args.only)) continue
    const row = await runReader(target, share)
    rows.push(row)
    process.stderr.write(`${row.name}: ${share} inputs in ${row.seconds.toFixed(1)} s, ${row.wrong.length} wrong\n`)
  }
  return rows
}

/** All inputs of a target; a process that dies or hangs is followed by one that goes on after that input. */
async function runReader({ name }: FuzzTarget, count: number): Promise<Row> {
  const row: Row = { name, accepted: 0, refused: 0, wrong: [], seconds: 0 }
  const started = performance.now()
  const folder = mkdtempSync(join(tmpdir(), 'trainyard-fuzz-results-'))
  for (let from = 0; from < count; ) {
    const to = Math.min(count, from + INPUTS_PER_PROCESS)
    const results = join(folder, `${from}.jsonl`)
    writeFileSync(results, '')
    const ended = await runWorker(name, from, to, results)
    const text = readFileSync(results, 'utf8')
    if (!text.startsWith(READY)) throw new Error(`no input of ${name} was tried: ${ended}`)
    const lines = text.slice(READY.length).split('\n').filter(Boolean)
    for (const line of lines) {
      const { index, kind, detail } = JSON.parse(line) as Outcome & { index: number }
      if (kind === 'wrong') row.wrong.push({ index, detail })
      else row[kind]++
    }
    from += lines.length
    if (from < to) row.wrong.push({ index: from++, detail: ended })
  }
  rmSync(folder, { recursive: true })
  row.seconds = (performance.now() - started) / 1000
  return row
}

/** @returns how the process ended */
async function runWorker(name: string, from: number, to: number, results: string): Promise<string> {
  const words = ['--worker', name, '--seed', args.seed, '--from', `${from}`, '--to', `${to}`, '--results', results]
  const child = spawn(process.execPath, ['--max-old-space-size=2048', fileURLToPath(import.meta.url), ...words], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4000)
  })
  let bytes = -1
  let quietSince = performance.now()
  let isHung = false
  const watch = setInterval(() => {
    const now = existsSync(results) ? statSync(results).size : 0
    if (now !== bytes) {
      bytes = now
      quietSince = performance.now()
    } else if (performance.now() - quietSince > HANG_MS) {
      isHung = true
      child.kill('SIGKILL')
    }
  }, POLL_MS)
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) =>
    child.on('close', (status, reason) => resolve([status, reason])),
  )
  clearInterval(watch)
  if (isHung) return `hung for ${HANG_MS / 1000} s`
  return `the process ended with ${signal ?? `exit code ${code}`}: ${said}`
}

/** Verbs in turn, two at a time. */
async function runCommandLine(count: number): Promise<Row[]> {
  const targets = cliTargets(await makeSeeds()).filter(({ name }) => name.includes(args.only))
  const rows = targets.map(({ name }): Row => ({ name, accepted: 0, refused: 0, wrong: [], seconds: 0 }))
  let next = 0
  const lane = async (): Promise<void> => {
    for (let k = next++; k < count; k = next++) {
      const [target, row] = [targets[k % targets.length]!, rows[k % targets.length]!]
      const index = Math.floor(k / targets.length)
      const started = performance.now()
      const { kind, detail } = await runCli(target, seed, index)
      row.seconds += (performance.now() - started) / 1000
      if (kind === 'wrong') row.wrong.push({ index, detail })
      else row[kind]++
    }
  }
  await Promise.all([lane(), lane()])
  return rows
}

async function runOne(index: number): Promise<void> {
  if (args.cli) {
    const target = cliTargets(await makeSeeds()).find(({ name }) => name.includes(args.only))!
    if (args.keep !== undefined) keepCliInput(target, seed, index, args.keep)
    console.log(target.name, await runCli(target, seed, index))
    return
  }
  const target = (await openTargets()).find(({ name }) => name.includes(args.only))!
  using bench = new Workbench(target, seed)
  if (args.keep !== undefined) {
    bench.keep(index, args.keep)
    return
  }
  console.log(target.name, await bench.run(index))
}

function report(rows: readonly Row[]): void {
  const sum = (count: (row: Row) => number): number => rows.reduce((total, row) => total + count(row), 0)
  const lineOf = (name: string, accepted: number, refused: number, wrong: number): string[] => [
    name,
    ...[accepted + refused + wrong, accepted, refused, wrong].map((n) => n.toLocaleString('en-US')),
  ]
  const lines = [
    ['', 'inputs', 'accepted', 'refused', 'wrong'],
    ...rows.map((row) => lineOf(row.name, row.accepted, row.refused, row.wrong.length)),
    lineOf(
      'all',
      sum((row) => row.accepted),
      sum((row) => row.refused),
      sum((row) => row.wrong.length),
    ),
  ]
  for (const { name, wrong } of rows) {
    for (const { index, detail } of wrong.slice(0, 10)) console.log(`${name}, input ${index}: ${detail}\n`)
  }
  for (const line of table(lines, { align: ['left', 'right', 'right', 'right', 'right'] })) console.log(line)
  console.log(`seed ${seed}, ${sum((row) => row.seconds).toFixed(0)} s`)
  process.exitCode = sum((row) => row.wrong.length) === 0 ? 0 : 1
}
