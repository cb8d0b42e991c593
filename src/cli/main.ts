// The command line: finds the verb, reads its options, runs its recipe, and turns errors into one sentence and an exit
// code: 2 for what the user wrote, 130 after Ctrl-C, 1 for everything else.
import { readFileSync } from 'node:fs'
import { ConfigError, TrainyardError } from '../core/errors.ts'
import { pad } from '../display/text.ts'
import { catalog, matchVerb, subVerbs, verbs } from './verbs.ts'
import { workingFolder } from './working-folder.ts'

const EXIT_FAILED = 1
const EXIT_USAGE = 2
/** What shells expect after Ctrl-C (128 + SIGINT), also when the run has stopped in good order. */
const EXIT_INTERRUPTED = 130

/**
 * Runs the command line `argv` (without node and script).
 * @returns the exit code
 */
export async function main(argv: readonly string[]): Promise<number> {
  const isDebugging = argv.includes('--debug')
  try {
    return await dispatch(argv)
  } catch (error) {
    reportError(error, isDebugging)
    return error instanceof ConfigError ? EXIT_USAGE : EXIT_FAILED
  }
}

async function dispatch(argv: readonly string[]): Promise<number> {
  const [first] = argv
  if (first === undefined || first === '--help' || first === '-h') return print(overview())
  if (first === '--version' || first === 'version') return print(version())
  const isHelp = first === 'help'
  const words = isHelp ? argv.slice(1) : argv
  if (words.length === 0) return print(overview())
  const verb = matchVerb(words)
  if (verb === undefined) {
    const group = subVerbs(words[0]!)
    if (group.length === 0) throw await unknownVerb(words)
    const asked = words[1]
    if (asked !== undefined && !asked.startsWith('-')) throw await unknownVerb(words.slice(0, 2))
    return print(`${verbList(group)}\n\n"trainyard help ${group[0]}" explains one of them.`)
  }
  return runVerb(verb.name, isHelp ? ['--help'] : verb.rest)
}

async function runVerb(name: string, argv: readonly string[]): Promise<number> {
  const recipe = await verbs[name]!.load()
  const [{ parseFlags }, { readConfigFile, resolveConfig }] = await Promise.all([
    import('../config/flags.ts'),
    import('../config/resolve.ts'),
  ])
  const flags = parseFlags(name, recipe.fields, recipe.positional, argv)
  if (flags.help) {
    const { recipeHelp } = await import('../config/help.ts')
    return print(recipeHelp(recipe, process.stdout.columns))
  }
  const files = flags.configFiles.map((file) => readConfigFile(file, workingFolder()))
  const config = resolveConfig(name, recipe.config, [...files, { source: 'flags', values: flags.values }])
  if (flags.printConfig) return print(JSON.stringify(config, null, 2))

  const [{ openContext }, { trackReads }] = await Promise.all([
    import('./context.ts'),
    import('../config/track-reads.ts'),
  ])
  const { context, close } = openContext(catalog)
  const isTracking = process.env.TRAINYARD_TRACK_READS === '1'
  const tracked = isTracking ? trackReads(config) : { config, unread: () => [] }
  try {
    await recipe.run(tracked.config, context)
  } finally {
    close()
  }
  const unread = tracked.unread()
  if (unread.length > 0) {
    throw new ConfigError(`${name}: nothing read ${unread.map((key) => `--${key}`).join(', ')} in this run`)
  }
  return context.signal.aborted ? EXIT_INTERRUPTED : 0
}

async function unknownVerb(words: readonly string[]): Promise<ConfigError> {
  const wrong = words.filter((word) => !word.startsWith('-')).join(' ')
  const { didYouMean } = await import('../config/suggest.ts')
  const groups = catalog.names.map((name) => name.split(' ')[0]!)
  const hint = didYouMean(wrong, catalog.names) || didYouMean(words[0]!, [...new Set(groups)])
  const shown = wrong === '' ? words[0]! : wrong
  return new ConfigError(`unknown verb "${shown}"${hint || '; "trainyard help" lists the verbs'}`)
}

function overview(): string {
  return [
    'Trainyard: from raw text to a language model that you trained, measured and can talk to.',
    '',
    'Usage: trainyard <verb> [options]',
    '',
    verbList(catalog.names),
    '',
    'trainyard help <verb>   what a verb does, its options, examples',
    'trainyard --version     the version',
  ].join('\n')
}

function verbList(names: readonly string[]): string {
  const width = Math.max(...names.map((name) => name.length))
  return names.map((name) => `  ${pad(name, width)}   ${verbs[name]!.summary}`).join('\n')
}

function version(): string {
  const file = new URL('../../package.json', import.meta.url)
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string }
  return `trainyard ${version} (Node ${process.versions.node})`
}

function print(text: string): number {
  process.stdout.write(`${text}\n`)
  return 0
}

/** Our errors and the system's are sentences; anything else is a bug of ours, so its origin is shown. */
function reportError(error: unknown, isDebugging: boolean): void {
  const isSystem = error instanceof Error && 'syscall' in error
  const ours = error instanceof TrainyardError || isSystem
  const text = ours ? error.message : error instanceof Error ? (error.stack ?? error.message) : String(error)
  process.stderr.write(`${text}\n`)
  if (!isDebugging) return
  if (ours && error.stack !== undefined) process.stderr.write(`${error.stack}\n`)
  for (let cause = (error as Error).cause; cause !== undefined; cause = (cause as Error).cause) {
    process.stderr.write(`caused by: ${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}\n`)
  }
}
