// npm test: every *.test.ts under test/ and src/, each file in its own process, two at a time. A line per file, the
// failures in full, and at the end "N passed, N failed". Words after the command choose files: npm test -- resume.
import { globSync } from 'node:fs'
import { relative } from 'node:path'
import { run } from 'node:test'
import { fileURLToPath } from 'node:url'
import { inspect } from 'node:util'

const CONCURRENCY = 2
/** A file that takes longer hangs. */
const FILE_TIMEOUT_MS = 600_000
const PATTERNS = ['test/**/*.test.ts', 'src/**/*.test.ts']

interface FileResult {
  passed: number
  failed: number
  skipped: Map<string, number>
  durationMs: number
}

const isColored = process.stdout.isTTY === true && !process.env.NO_COLOR
const red = (text: string): string => (isColored ? `\u001b[31m${text}\u001b[39m` : text)

const root = process.env.TRAINYARD_TEST_ROOT ?? fileURLToPath(new URL('..', import.meta.url))
const wanted = process.argv.slice(2)
const files = PATTERNS.flatMap((pattern) =>
  globSync(pattern, { cwd: root, exclude: (path) => path.includes('node_modules') }),
)
  .filter((file) => wanted.length === 0 || wanted.some((word) => file.includes(word)))
  .sort()

const start = performance.now()
const results = new Map<string, FileResult>()
const resultOf = (file: string | undefined): FileResult => {
  const key = file === undefined ? '(unknown file)' : relative(root, file)
  const known = results.get(key)
  if (known !== undefined) return known
  const fresh = { passed: 0, failed: 0, skipped: new Map<string, number>(), durationMs: 0 }
  results.set(key, fresh)
  return fresh
}

const stream = run({
  files: files.map((file) => `${root.replace(/\/$/, '')}/${file}`),
  concurrency: CONCURRENCY,
  timeout: FILE_TIMEOUT_MS,
})
stream.on('test:pass', (event) => {
  if (event.details.type === 'suite') return
  const result = resultOf(event.file)
  if (event.skip === undefined && event.todo === undefined) result.passed++
  else {
    const reason = typeof event.skip === 'string' && event.skip !== '' ? event.skip : 'no reason given'
    result.skipped.set(reason, (result.skipped.get(reason) ?? 0) + 1)
  }
})
stream.on('test:fail', (event) => {
  const { details, name, file, line, todo } = event
  // A suite, or a test with subtests, fails because of what is inside, which is reported by itself.
  const failure = details.error as Error & { failureType?: string; cause?: unknown }
  if (todo !== undefined || failure.failureType === 'subtestsFailed') return
  resultOf(file).failed++
  const where = file === undefined ? '' : ` (${relative(root, file)}:${line ?? 0})`
  const cause = failure.cause instanceof Error ? failure.cause : failure
  const text = cause.stack ?? inspect(cause)
  process.stdout.write(`${red('FAILED')} ${name}${where}\n${text.replaceAll(/^/gm, '    ')}\n\n`)
})
stream.on('test:summary', (summary) => {
  if (summary.file === undefined) return
  const result = resultOf(summary.file)
  result.durationMs = summary.duration_ms
  const skipped = [...result.skipped.values()].reduce((sum, count) => sum + count, 0)
  const counts = [`${result.passed} passed`]
  if (result.failed > 0) counts.push(red(`${result.failed} failed`))
  if (skipped > 0) counts.push(`${skipped} skipped`)
  const time = `${(summary.duration_ms / 1000).toFixed(1)} s`
  process.stdout.write(`${relative(root, summary.file).padEnd(48)} ${time.padStart(8)}   ${counts.join(', ')}\n`)
})
for await (const _ of stream);

const all = [...results.values()]
const sum = (count: (result: FileResult) => number): number => all.reduce((total, result) => total + count(result), 0)
const passed = sum((result) => result.passed)
let failed = sum((result) => result.failed)
if (files.length === 0) {
  process.stdout.write(`no test file matches ${wanted.join(' ') || PATTERNS.join(' ')}\n`)
  failed++
}
const reasons = new Map<string, number>()
for (const { skipped } of all) for (const [why, count] of skipped) reasons.set(why, (reasons.get(why) ?? 0) + count)
process.stdout.write('\n')
if (reasons.size > 0) {
  process.stdout.write(`${[...reasons.values()].reduce((a, b) => a + b, 0)} skipped:\n`)
  for (const [why, count] of reasons) process.stdout.write(`  ${count} x ${why}\n`)
}
process.stdout.write(`${files.length} files in ${((performance.now() - start) / 1000).toFixed(1)} s\n`)
process.stdout.write(`${passed} passed, ${failed} failed\n`)
process.exitCode = failed === 0 ? 0 : 1
