// Makes a fresh clone work: installs the dependencies when they are missing or the lock file has changed, builds the CPU
// kernels, then runs the real command under the Node 24 of node_modules. Plain JavaScript for Node 18 or newer, and no
// dependencies. `npm run demo|check|trainyard` and `npm test` come through here.
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const modules = join(root, 'node_modules')
const stamp = join(modules, '.trainyard-stamp')
const goodNode = join(modules, 'node', 'bin', process.platform === 'win32' ? 'node.exe' : 'node')

const COMMANDS = {
  demo: { script: 'tools/trainyard.mjs', args: ['demo'], needsKernels: true },
  test: { script: 'tools/run-tests.ts', args: [], needsKernels: true },
  check: { script: 'tools/check.ts', args: [], needsKernels: false },
  'demo-gate': { script: 'tools/demo-gate.ts', args: [], needsKernels: true },
  run: { script: 'tools/trainyard.mjs', args: [], needsKernels: false },
}

function say(text) {
  process.stderr.write(`${text}\n`)
}

function fail(sentence) {
  say(`trainyard: ${sentence}`)
  process.exit(1)
}

/** Environment without our own node_modules in PATH: npm ci removes the `node` that is there while it runs. */
function outerEnvironment() {
  const path = (process.env.PATH ?? '').split(delimiter).filter((folder) => !folder.startsWith(modules))
  return { ...process.env, PATH: path.join(delimiter) }
}

function lockHash() {
  return createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex')
}

/** Whether what npm last installed here is what the lock file says: then nothing needs to be fetched. */
function installedMatchesLock() {
  const installed = join(modules, '.package-lock.json')
  if (!existsSync(installed)) return false
  const wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages
  const present = JSON.parse(readFileSync(installed, 'utf8')).packages
  return Object.entries(wanted).every(
    ([path, { version, optional }]) =>
      path === '' || present[path]?.version === version || (optional && !present[path]),
  )
}

/** @returns whether it installed something */
function ensureDependencies() {
  const hash = lockHash()
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return false
  if (installedMatchesLock()) {
    writeFileSync(stamp, hash)
    return false
  }
  say('installing the dependencies (once) ...')
  const start = Date.now()
  const npm = process.env.npm_execpath
  const args = ['ci', '--no-audit', '--no-fund', '--loglevel=error']
  const options = { cwd: root, stdio: ['ignore', 2, 2], env: outerEnvironment() }
  const isScript = npm !== undefined && /npm-cli\.c?js$/.test(npm)
  const { status, error } = isScript
    ? spawnSync(process.execPath, [npm, ...args], options)
    : spawnSync('npm', args, { ...options, shell: process.platform === 'win32' })
  if (status !== 0) fail(`npm ci failed (${error?.message ?? `exit code ${status}`}); its messages are above`)
  writeFileSync(stamp, hash)
  say(`installed in ${((Date.now() - start) / 1000).toFixed(1)} s`)
  return true
}

/** The Node that runs TypeScript: the package's, or this one where it is new enough. */
function ensureNode() {
  if (existsSync(goodNode)) return goodNode
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > 22 || (major === 22 && minor >= 18)) return process.execPath
  return fail(
    `Node 24 is missing because the install script of the npm package "node" did not run (is ignore-scripts on?); run "npm rebuild --ignore-scripts=false node" in ${root}, or use Node 22.18 or newer`,
  )
}

function environment(node) {
  const path = [join(modules, 'node', 'bin'), join(modules, '.bin'), outerEnvironment().PATH].join(delimiter)
  return { ...process.env, PATH: node === goodNode ? path : process.env.PATH }
}

function buildKernels(node) {
  const { status } = spawnSync(node, [join(root, 'tools', 'build-kernels.ts')], {
    stdio: ['ignore', 2, 2],
    env: environment(node),
  })
  if (status !== 0) process.exit(1)
}

const [name, ...rest] = process.argv.slice(2)
const command = COMMANDS[name]
if (command === undefined) fail(`expected one of ${Object.keys(COMMANDS).join(', ')}, got "${name ?? ''}"`)
const isFresh = ensureDependencies()
const node = ensureNode()
if (command.needsKernels || isFresh) buildKernels(node)

// npm runs scripts in the project's folder; the files that a user names are meant from where the user is.
const cwd = name === 'run' ? (process.env.INIT_CWD ?? process.cwd()) : process.cwd()
const child = spawn(node, [join(root, command.script), ...command.args, ...rest], {
  cwd,
  stdio: 'inherit',
  env: environment(node),
})
// A terminal sends Ctrl-C to all of us: the command decides, we wait for it.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => child.kill('SIGTERM'))
child.on('exit', (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)))
