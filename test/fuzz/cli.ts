// Damaged inputs through the real program: every run ends by itself, with success or one sentence and an exit code, and
// changes nothing that was there before.
import { spawn } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { PROGRAM } from '../cli/program.ts'
import { differenceOf, type Outcome } from './campaign.ts'
import { FuzzRandom } from './fuzz-random.ts'
import { faultOfSentence } from './judge.ts'
import { type FileSet, readFolder, type Seeds, writeFolder } from './seeds.ts'
import { type Changes, mutateFiles } from './target.ts'
import { mutateDataset, YAML_WORDS } from './targets-data.ts'
import { mutateCheckpoint } from './targets-models.ts'

/** A verb with good files, which lie in `input/` of the folder that it is run in. */
export interface CliTarget {
  readonly name: string
  readonly files: FileSet
  mutate(random: FuzzRandom): Changes
  words(random: FuzzRandom): string[]
}

const TIMEOUT_MS = 30_000
/** Files of an earlier result under the name that the verb is to write to: they must stay as they are. */
const EARLIER: FileSet = new Map([
  ['config.json', Buffer.from('{"mine":true}')],
  ['model.safetensors', Buffer.from('precious')],
  ['train/manifest.json', Buffer.from('{}')],
  ['train/tokens-00000.bin', Buffer.from('precious')],
  ['tokenizer/tokenizer.json', Buffer.from('{}')],
])

const SMALL_RUN = ['--out', 'out', '--depth', '1', '--max-steps', '2', '--seq-len', '8', '--batch-tokens', '32']
const RUN_FLAGS = [...SMALL_RUN, '--micro-batch-size', '2', '--threads', '1']
const SAY = ['--prompt', 'the', '--max-new-tokens', '3', '--num-samples', '1', '--threads', '1']

function within(folder: string, files: FileSet): Map<string, Buffer> {
  return new Map([...files].map(([name, bytes]) => [`${folder}/${name}`, bytes]))
}

/** Changes of the files in `folder`, named from above it. */
function changedWithin(folder: string, changes: Changes): Changes {
  return new Map([...changes].map(([name, bytes]) => [`${folder}/${name}`, bytes]))
}

export function cliTargets(seeds: Seeds): CliTarget[] {
  const target = (name: string, files: FileSet, words: string[], only?: RegExp): CliTarget => ({
    name,
    files,
    mutate: (random) => mutateFiles(files, random, only === undefined ? {} : { only }),
    words: () => words,
  })
  const data = new Map([...within('train', seeds.dataset), ...within('tokenizer', seeds.bytesTokenizer)])
  const options = new Map([...within('data', data), ['run.yaml', seeds.configs.get('pretrain.yaml')!]])
  const configFlags = ['--config', 'input/run.yaml', '--data', 'input/data', '--eps', '1e-8', ...RUN_FLAGS]
  return [
    target('generate, model', seeds.llama, ['generate', 'input', ...SAY]),
    target('generate, config.json', seeds.gpt2, ['generate', 'input', ...SAY], /^config\.json$/),
    {
      ...target('generate, checkpoints', seeds.run, ['generate', 'input', ...SAY]),
      mutate: (random) => mutateCheckpoint(seeds.run, random),
    },
    {
      ...target('pretrain, data', data, ['pretrain', '--data', 'input', ...RUN_FLAGS]),
      mutate: (random) => changedWithin('train', mutateDataset(seeds.dataset, random)),
    },
    {
      ...target('pretrain, options', options, ['pretrain', ...configFlags]),
      mutate: (random) => mutateFiles(options, random, { only: /run\.yaml$/, words: YAML_WORDS }),
    },
    target('import hf', seeds.sharded, ['import', 'hf', 'input', '--out', 'out']),
    target('import llama2c', seeds.llama2c, [
      ...['import', 'llama2c', 'input/model.bin', '--tokenizer', 'input/tokenizer.bin', '--out', 'out'],
    ]),
    target('tokenizer encode', seeds.bytesTokenizer, ['tokenizer', 'encode', 'input', '--text', 'the best']),
    target('tokenizer encode, ranks', seeds.tiktoken, ['tokenizer', 'encode', 'input', '--text', 'the best']),
    target('data prepare', seeds.texts, [
      ...['data', 'prepare', 'input', '--split', 'lines', '--validation-fraction', '0'],
      ...['--train-tokenizer', '270', '--out', 'out'],
    ]),
    {
      ...target('verify checkpoint', seeds.run, ['verify', 'checkpoint', 'input']),
      mutate: (random) => mutateCheckpoint(seeds.run, random),
    },
  ]
}

/** Runs input `index` of a verb in a folder of its own. */
export async function runCli(target: CliTarget, seed: number, index: number): Promise<Outcome> {
  const root = mkdtempSync(join(tmpdir(), 'trainyard-fuzz-cli-'))
  try {
    writeCliInput(target, seed, index, root)
    const before = readFolder(root)
    const hasEarlier = before.has('out/config.json')
    const words = target.words(new FuzzRandom(seed, `${target.name}.${index}.words`))
    const { status, signal, stderr, seconds } = await runProgram(words, root)
    const fault =
      status === null
        ? `ended by ${signal} after ${seconds.toFixed(1)} s`
        : faultOfOutput(stderr, status, target.name === 'pretrain, options')
    if (fault !== undefined) return { kind: 'wrong', detail: `${fault}\n${stderr.slice(0, 3000)}` }
    const after = readFolder(root)
    const changed = differenceOf(before, new Map([...after].filter(([name]) => before.has(name))))
    if (changed !== undefined) return { kind: 'wrong', detail: `${changed} was changed or removed` }
    const added = [...after.keys()].filter((name) => !before.has(name) && !name.startsWith('out/'))
    if (added.length > 0) return { kind: 'wrong', detail: `${added[0]} was left behind` }
    if (status === 0 && hasEarlier && words.includes('--out')) {
      return { kind: 'wrong', detail: 'it wrote into a folder that held something else' }
    }
    return { kind: status === 0 ? 'accepted' : 'refused', detail: stderr.trim() }
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}

/** Writes an input as the program finds it: `input/`, and now and then an earlier result in `out/`. */
function writeCliInput(target: CliTarget, seed: number, index: number, root: string): void {
  const random = new FuzzRandom(seed, `${target.name}.${index}`)
  const folder = join(root, 'input')
  writeFolder(folder, target.files)
  for (const [name, bytes] of target.mutate(random)) {
    const path = join(folder, name)
    rmSync(path, { force: true })
    mkdirSync(dirname(path), { recursive: true })
    if (bytes !== undefined) writeFileSync(path, bytes)
  }
  if (random.chance(0.15)) writeFolder(join(root, 'out'), EARLIER)
}

/** Keeps an input to look at. */
export function keepCliInput(target: CliTarget, seed: number, index: number, to: string): void {
  const root = mkdtempSync(join(tmpdir(), 'trainyard-fuzz-cli-'))
  writeCliInput(target, seed, index, root)
  cpSync(root, to, { recursive: true })
  rmSync(root, { recursive: true })
}

interface Ended {
  readonly status: number | null
  readonly signal: string | null
  readonly stderr: string
  readonly seconds: number
}

async function runProgram(words: readonly string[], cwd: string): Promise<Ended> {
  const started = performance.now()
  const { NODE_TEST_CONTEXT: _, ...env } = process.env
  const child = spawn(process.execPath, [PROGRAM, ...words], {
    cwd,
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...env, NODE_OPTIONS: '--max-old-space-size=1024' },
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
  })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const [status, signal] = await new Promise<[number | null, string | null]>((resolve) =>
    child.on('close', (code, reason) => resolve([code, reason])),
  )
  return { status, signal, stderr, seconds: (performance.now() - started) / 1000 }
}

/** What is wrong with what the program said. A failure ends with its sentence; warnings may come before it. */
function faultOfOutput(stderr: string, status: number, isMultiline: boolean): string | undefined {
  const lines = stderr.split('\n').filter((line) => line !== '')
  if (lines.some((line) => /^\s+at |\(node:\d+\)|^Node\.js v/.test(line))) return 'a stack trace or a warning of Node'
  if (status === 0) return undefined
  if (status !== 1 && status !== 2) return `exit code ${status}`
  if (lines.length === 0) return `exit code ${status} without a word`
  for (const line of isMultiline ? lines : lines.slice(-1)) {
    const fault = faultOfSentence(line, /(got|step|optimizer|expected) (undefined|\[object Object\])/)
    if (fault !== undefined) return fault
  }
  return undefined
}
