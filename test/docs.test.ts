// What the documents promise: each command of the README works, in order and in a folder that looks like a clone; its
// programs run; each link leads somewhere. A fence after `<!-- test: skip (reason) -->` is skipped, visibly.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { layerRows } from '../tools/check-layers.ts'
import { listAnchors, listFences, listLinks } from './markdown.ts'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const LONGEST_MS = 180_000
/** Commands that come back to this test. */
const OURSELVES = /^(npm (run )?test|npm run check|\.ci\/run)\b/m

const clone = openClone()
after(() => rmSync(clone, { recursive: true, force: true }))

/** A folder that shows the files of the repository and takes what the commands write. */
function openClone(): string {
  const folder = mkdtempSync(join(tmpdir(), 'trainyard-docs-'))
  const hidden = ['runs', 'node_modules', '.git', '.cache', '.gpu']
  for (const name of readdirSync(ROOT)) if (!hidden.includes(name)) symlinkSync(join(ROOT, name), join(folder, name))
  mkdirSync(join(folder, 'node_modules'))
  // For programs that import the package, and for the bare command.
  symlinkSync(ROOT, join(folder, 'node_modules', 'trainyard'))
  mkdirSync(join(folder, 'node_modules', '.bin'))
  symlinkSync(join(ROOT, 'tools', 'trainyard.mjs'), join(folder, 'node_modules', '.bin', 'trainyard'))
  return folder
}

function run(command: string, args: readonly string[]): void {
  const path = [join(clone, 'node_modules', '.bin'), dirname(process.execPath), process.env.PATH].join(delimiter)
  const env: NodeJS.ProcessEnv = { ...process.env, PATH: path }
  // Node tells the processes that it starts from a test to report in its own protocol.
  delete env.NODE_TEST_CONTEXT
  const { status, signal, stdout, stderr } = spawnSync(command, args, {
    cwd: clone,
    encoding: 'utf8',
    timeout: LONGEST_MS,
    stdio: ['ignore', 'pipe', 'pipe'],
    env,
  })
  assert.equal(status, 0, `${signal ?? `exit code ${status}`}\n${stdout.slice(-2000)}${stderr.slice(-2000)}`)
}

for (const { language, text, line, skip } of listFences(readFileSync(join(ROOT, 'README.md'), 'utf8'))) {
  const first = text.trim().split('\n')[0]
  if (language === 'sh') {
    const reason = skip ?? (OURSELVES.test(text) ? 'runs the tests themselves' : undefined)
    test(`README.md:${line} ${first}`, { skip: reason ?? false }, () => run('bash', ['-euo', 'pipefail', '-c', text]))
  }
  if (language === 'ts') {
    test(`README.md:${line} ${first}`, { skip: skip ?? false }, () => {
      const program = join(clone, `program-${line}.ts`)
      writeFileSync(program, text)
      run(process.execPath, [program])
    })
  }
}

const PAGES = ['README.md', 'CONTRIBUTING.md', ...globSync('docs/**/*.md', { cwd: ROOT })].filter((page) =>
  existsSync(join(ROOT, page)),
)

for (const page of PAGES) {
  test(`the links of ${page} lead somewhere`, () => {
    const broken = brokenLinks(join(ROOT, page))
    assert.deepEqual(broken, [])
  })
}

/** 'line: target' of each link in `file` to a file or heading that does not exist. */
function brokenLinks(file: string): string[] {
  return listLinks(readFileSync(file, 'utf8')).flatMap(({ path, anchor, line }) => {
    const target = path === '' ? file : resolve(dirname(file), path)
    if (!existsSync(target)) return [`${line}: ${path}`]
    if (anchor === undefined || !target.endsWith('.md')) return []
    return listAnchors(readFileSync(target, 'utf8')).includes(anchor) ? [] : [`${line}: ${path}#${anchor}`]
  })
}

for (const page of PAGES) {
  test(`files that ${page} names are there`, () => {
    const text = readFileSync(join(ROOT, page), 'utf8').replaceAll(/^```[\s\S]*?^```$/gm, '')
    const paths = [...text.matchAll(/`((?:src|test|tools|bench|docs)(?:\/[\w.-]+)*)\/?`/g)].map(([, path]) => path!)
    assert.deepEqual(
      paths.filter((path) => !existsSync(join(ROOT, path))),
      [],
    )
  })
}

test('the table of layers in docs/architecture.md is the one that is checked', () => {
  const lines = readFileSync(join(ROOT, 'docs/architecture.md'), 'utf8').split('\n')
  const start = lines.findIndex((line) => line.startsWith('| folder | may import |')) + 2
  assert.deepEqual(lines.slice(start, lines.indexOf('', start)), layerRows())
})

test('broken links and fences are told from good ones', () => {
  const page = join(clone, 'page.md')
  const text = [
    '# A page: its `title`',
    '[self](#a-page-its-title) [file](README.md) [web](https://example.org) `[code](none.md)`',
    '[gone](none.md) [nowhere](#none)',
    '<!-- test: skip (takes an hour) -->',
    '```sh',
    'sleep 3600 # [in code](none.md)',
    '```',
    'More.',
    '',
    '```ts',
    'const a = 1',
    '```',
  ].join('\n')
  writeFileSync(page, `${text}\n`)
  assert.deepEqual(brokenLinks(page), ['3: none.md', '3: #none'])
  assert.deepEqual(listFences(text), [
    { language: 'sh', text: 'sleep 3600 # [in code](none.md)\n', line: 5, skip: 'takes an hour' },
    { language: 'ts', text: 'const a = 1\n', line: 10, skip: undefined },
  ])
})

test('a command that fails is noticed, as is a program', () => {
  run('bash', ['-euo', 'pipefail', '-c', 'trainyard --version > version.txt\ngrep trainyard version.txt'])
  assert.throws(() => run('bash', ['-euo', 'pipefail', '-c', 'trainyard no-such-verb\ntrue']), /unknown verb/)
  writeFileSync(join(clone, 'bad.ts'), "throw new Error('on purpose')\n")
  assert.throws(() => run(process.execPath, [join(clone, 'bad.ts')]), /on purpose/)
})
