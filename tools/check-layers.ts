// Checks who imports whom in src/: a table and a loop. Also: no cycles, nothing of the process outside the command line,
// backends loaded by open.ts alone, models that know nothing of devices and ranks. Run alone: node tools/check-layers.ts
import { globSync, readFileSync } from 'node:fs'
import { basename, dirname, join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { codeOnly, type ImportedFile, listImports, listNames, wordsOf } from './source-text.ts'

interface Layer {
  /** Folders of src/, or 'open.ts', whose files it may import. Its own folder is always allowed, unless isApart. */
  may: readonly string[]
  /** Folders of which it may import types. */
  types?: readonly string[]
  /** Packages it may import. */
  packages?: readonly string[]
  /** Files of the folder whose code has this may not be imported by their neighbours. */
  apart?: { pattern: RegExp; what: string }
}

const MODEL_PARTS = ['core', 'ops', 'nn']
const LIBRARY = [...MODEL_PARTS, 'optim', 'data', 'models']
/** What runs something: it opens devices, shows progress and takes a RunContext, but no configuration of a recipe. */
const RUNNER: Layer = {
  may: [...LIBRARY, 'checkpoint', 'display', 'machine', 'open.ts'],
  types: ['config', 'backends'],
}
const RECIPE = { pattern: /\bdefineRecipe\s*\(/, what: 'a recipe' }
const EVERYTHING_BELOW_RECIPES = [...RUNNER.may, 'config', 'train', 'infer', 'eval', 'plan']

/** From the ground up. docs/architecture.md shows it; a new folder of src/ needs a row. */
export const LAYERS: Readonly<Record<string, Layer>> = {
  core: { may: [] },
  ops: { may: ['core'] },
  'backends/reference': { may: ['core'] },
  'backends/meta': { may: ['core'] },
  'backends/cpu': { may: ['core'], packages: ['koffi'] },
  'backends/cuda': { may: ['core'], packages: ['koffi'] },
  comm: { may: ['core'], packages: ['koffi'] },
  nn: { may: ['core', 'ops'] },
  optim: { may: ['core', 'ops'] },
  data: { may: ['core', 'ops'], packages: ['koffi', 'zod'] },
  config: { may: ['core'], packages: ['zod', 'yaml'] },
  display: { may: ['core'] },
  machine: { may: ['core'] },
  models: { may: MODEL_PARTS },
  checkpoint: { may: LIBRARY, packages: ['zod'] },
  'open.ts': { may: ['core', 'backends', 'comm', 'machine'] },
  train: RUNNER,
  plan: { may: [...RUNNER.may, 'config', 'train'], packages: ['zod', 'yaml'] },
  infer: RUNNER,
  eval: RUNNER,
  recipes: { may: EVERYTHING_BELOW_RECIPES, types: ['backends'], packages: ['zod', 'yaml'], apart: RECIPE },
  cli: { may: ['core', 'config', 'display', 'train', 'infer', 'recipes'] },
  'index.ts': { may: [...EVERYTHING_BELOW_RECIPES, 'recipes'] },
}

/** LAYERS as the rows of a Markdown table; folders with equal rules share one. */
export function layerRows(): string[] {
  const rules = ({ may, types = [], packages = [] }: Layer): string =>
    [may.join(', ') || 'nothing of ours', types.join(', ') || '-', packages.join(', ') || '-'].join(' | ')
  const rows = Map.groupBy(Object.entries(LAYERS), ([, layer]) => rules(layer))
  return [...rows].map(([text, layers]) => `| ${layers.map(([name]) => name).join(', ')} | ${text} |`)
}

/** Words that names in these folders may not hold: a model is the same on every device and on every mesh. */
const SEALED_FOLDERS = ['nn', 'models']
const SEALED_WORDS = ['rank', 'mesh', 'group', 'device', 'backend'].flatMap((word) => [word, `${word}s`])
const SEAL_EXCEPTIONS: Readonly<Record<string, string>> = {
  'src/nn/module.ts': 'materialize() is handed the device on which a model gets its memory',
  'src/nn/kv-cache.ts': 'a cache owns memory on the device that it is handed',
}

/** The process belongs to the command line; the rest is handed what it needs. */
const PROCESS_USES = [
  { pattern: /\bprocess\s*\.\s*env\b/, what: 'process.env', allowed: ['cli', 'open.ts'] },
  { pattern: /\bprocess\s*\.\s*exit\w*/, what: 'process.exit', allowed: ['cli'] },
  { pattern: /\}\s*=\s*process\b(?!\s*\.)/, what: 'a destructured process', allowed: ['cli'] },
  { pattern: /(?<![.\w])console\s*\./, what: 'console', allowed: ['cli'] },
] as const

export interface Violation {
  file: string
  line: number
  sentence: string
}

/** The row of LAYERS that 'src/backends/cpu/matmul.ts' is in. */
function layerOf(file: string): string {
  const [, first = '', second = ''] = file.split('/')
  return first === 'backends' ? `backends/${second}` : first
}

/** Every breach of the rules in `root`/src, by file and line. */
export function checkLayers(root: string): Violation[] {
  const files = globSync('src/**/*.ts', { cwd: root }).map((file) => file.replaceAll('\\', '/'))
  const texts = new Map(files.map((file) => [file, readFileSync(join(root, file), 'utf8')]))
  const codeOf = (file: string): string => codeOnly(texts.get(file) ?? '')
  const violations: Violation[] = []
  const graph = new Map<string, string[]>()
  for (const file of files.sort()) {
    const report = (line: number, sentence: string): void => {
      violations.push({ file, line, sentence })
    }
    if (file.endsWith('.test.ts')) continue
    const name = layerOf(file)
    const layer = LAYERS[name]
    if (layer === undefined) {
      report(1, `src/${name} is in no layer: give it a row in tools/check-layers.ts`)
      continue
    }
    const imports = listImports(texts.get(file)!)
    const targets: string[] = []
    for (const imported of imports) {
      const target = imported.specifier.startsWith('.') ? posix.join(dirname(file), imported.specifier) : undefined
      const problem =
        target === undefined ? packageProblem(layer, imported) : importProblem(file, target, imported, codeOf)
      if (problem !== undefined) report(imported.line, problem)
      // A dynamic import waits until it is called, and types are erased: neither makes a cycle.
      if (target !== undefined && !imported.isTypeOnly && !imported.isDynamic) targets.push(target)
    }
    graph.set(file, targets)
    const code = codeOf(file)
    checkProcess(code, name, report)
    if (SEALED_FOLDERS.includes(name) && !(file in SEAL_EXCEPTIONS)) checkSeal(code, report)
  }
  for (const cycle of findCycles(graph)) {
    violations.push({
      file: cycle[0]!,
      line: 1,
      sentence: `imports in a circle: ${[...cycle, cycle[0]!].join(' -> ')}`,
    })
  }
  return violations
}

/** Why `file` may not import `target`; codeOf gives the code of a file. */
function importProblem(
  file: string,
  target: string,
  { isTypeOnly, isDynamic }: ImportedFile,
  codeOf: (file: string) => string,
): string | undefined {
  const [from, to] = [layerOf(file), layerOf(target)]
  const layer = LAYERS[from]!
  if (!target.startsWith('src/')) return `imports ${target}, which is outside src/`
  if (to === 'index.ts') return 'imports src/index.ts, the public face: import the file that has it'
  if (from === to) {
    if (layer.apart?.pattern.test(codeOf(target)) !== true) return undefined
    return `imports ${target}, ${layer.apart.what}: files of src/${from} share no more than helpers, move what it needs of it`
  }
  const allows = (list: readonly string[] = []): boolean =>
    list.some((name) => to === name || to.startsWith(`${name}/`))
  if (!allows(layer.may) && !(isTypeOnly && allows(layer.types))) {
    const types = allows(layer.types) ? ' other than types' : ''
    return `imports ${target}: ${from} may import nothing${types} of ${to}; it may use ${layer.may.join(', ') || 'nothing of ours'}`
  }
  if (to.startsWith('backends/') && !isTypeOnly && !isDynamic) {
    return `imports ${target} at once: load a backend with import() when it is first asked for`
  }
  return undefined
}

function packageProblem(layer: Layer, { specifier }: ImportedFile): string | undefined {
  if (specifier.startsWith('node:') || layer.packages?.includes(specifier)) return undefined
  const allowed = layer.packages?.join(', ') ?? 'none'
  return `imports the package ${specifier}: packages allowed here: ${allowed}`
}

type Report = (line: number, sentence: string) => void

function checkProcess(code: string, layer: string, report: Report): void {
  const uses = PROCESS_USES.filter(({ allowed }) => !(allowed as readonly string[]).includes(layer))
  for (const [index, line] of code.split('\n').entries()) {
    for (const { pattern, what } of uses) {
      if (pattern.test(line)) report(index + 1, `uses ${what}, which only src/cli may: take it as an argument`)
    }
  }
}

function checkSeal(code: string, report: Report): void {
  for (const { name, line } of listNames(code)) {
    const word = wordsOf(name).find((candidate) => SEALED_WORDS.includes(candidate))
    if (word !== undefined) report(line, `names ${name}: models and their parts know no ${word}`)
  }
}

/** Circles in `graph`, one for each strongly connected set of files (Tarjan 1972). */
export function findCycles(graph: ReadonlyMap<string, readonly string[]>): string[][] {
  const order = new Map<string, number>()
  const low = new Map<string, number>()
  const stack: string[] = []
  const cycles: string[][] = []
  const visit = (file: string): void => {
    order.set(file, order.size)
    low.set(file, order.get(file)!)
    stack.push(file)
    for (const next of graph.get(file) ?? []) {
      if (!order.has(next)) visit(next)
      if (stack.includes(next)) low.set(file, Math.min(low.get(file)!, low.get(next)!))
    }
    if (low.get(file) !== order.get(file)) return
    const members = stack.splice(stack.indexOf(file))
    if (members.length > 1 || graph.get(file)?.includes(file)) cycles.push(circleThrough(members, graph))
  }
  for (const file of graph.keys()) if (!order.has(file)) visit(file)
  return cycles
}

/** The shortest way from the first member back to it. */
function circleThrough(members: readonly string[], graph: ReadonlyMap<string, readonly string[]>): string[] {
  const start = [...members].sort()[0]!
  const paths = [[start]]
  const seen = new Set<string>()
  for (let path = paths.shift(); path !== undefined; path = paths.shift()) {
    for (const next of graph.get(path.at(-1)!) ?? []) {
      if (next === start) return path
      if (seen.has(next) || !members.includes(next)) continue
      seen.add(next)
      paths.push([...path, next])
    }
  }
  return [...members]
}

/** 'src/nn/x.ts:3 imports ...'. */
export function violationLine({ file, line, sentence }: Violation): string {
  return `${file}:${line} ${sentence}`
}

if (process.argv[1] !== undefined && basename(process.argv[1]) === 'check-layers.ts') {
  const violations = checkLayers(fileURLToPath(new URL('..', import.meta.url)))
  for (const violation of violations) process.stdout.write(`${violationLine(violation)}\n`)
  process.stdout.write(violations.length === 0 ? 'layers: ok\n' : `layers: ${violations.length} violations\n`)
  process.exitCode = violations.length === 0 ? 0 : 1
}
