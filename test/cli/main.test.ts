// The command line as a user meets it: help, mistakes, versions, files of options, exit codes.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { verbs } from '../../src/cli/verbs.ts'
import { emptyFolder, PROGRAM, trainyard } from './program.ts'

test('no words, --help, -h and help all list the verbs', () => {
  const { status, stdout, stderr } = trainyard(['--help'])
  assert.equal(status, 0)
  assert.equal(stderr, '')
  for (const [name, { summary }] of Object.entries(verbs)) {
    assert.ok(
      stdout.split('\n').some((line) => line.trim().startsWith(name) && line.endsWith(summary)),
      name,
    )
  }
  for (const words of [[], ['-h'], ['help']]) assert.equal(trainyard(words).stdout, stdout)
})

test('the list of verbs needs neither zod nor a recipe nor a kernel', () => {
  // Node prints every file that the ESM loader resolves; packages and recipes must not be among them.
  const { stderr, stdout } = trainyard(['--help'], { NODE_DEBUG: 'esm' })
  assert.match(stdout, /Usage: trainyard <verb>/)
  assert.match(stderr, /src\/cli\/verbs\.ts/, 'the trace shows loaded files')
  assert.doesNotMatch(stderr, /node_modules\/(zod|yaml|koffi)/)
  assert.doesNotMatch(stderr, /src\/(recipes|config|backends|core\/tensor)\b/)
})

test('--version says both versions', () => {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  for (const words of [['--version'], ['version']]) {
    assert.deepEqual(trainyard(words), {
      status: 0,
      stdout: `trainyard ${version} (Node ${process.versions.node})\n`,
      stderr: '',
    })
  }
})

test('help of a verb, asked in three ways, from any terminal', () => {
  const asked = [
    ['help', 'import', 'hf'],
    ['import', 'hf', '--help'],
    ['import', 'hf', 'x', '-h'],
  ].map((words) => {
    const { status, stdout } = trainyard(words)
    assert.equal(status, 0)
    return stdout
  })
  assert.match(asked[0]!, /^trainyard import hf: /)
  assert.equal(asked[1], asked[0])
  assert.equal(asked[2], asked[0])
})

test('the first word of several verbs lists them', () => {
  const { status, stdout } = trainyard(['import'])
  assert.equal(status, 0)
  assert.match(stdout, /^ {2}import hf +check/m)
  assert.match(stdout, /^ {2}import llama2c +turn/m)
  assert.doesNotMatch(stdout, /export/)
})

const MISTAKES: readonly [words: string[], sentence: RegExp][] = [
  [['docter'], /^unknown verb "docter"; did you mean doctor\?\n$/],
  [['import', 'gguf'], /^unknown verb "import gguf"/],
  [['quux'], /^unknown verb "quux"; "trainyard help" lists the verbs\n$/],
  [['doctor', '--jsn'], /^unknown option --jsn for doctor; did you mean --json\?\n$/],
  [['doctor', 'please'], /^doctor: unexpected "please": doctor takes no words; options start with --\n$/],
  [['schema'], /^schema needs --verb, the verb, such as doctor or data prepare: .*; for example --verb doctor\n$/],
  [['schema', 'docter'], /^schema: there is no verb "docter"; did you mean doctor\?\n$/],
  [['doctor', '--config', 'none.yaml'], /^--config none\.yaml: the file could not be read \(ENOENT.*\n$/],
]

for (const [words, sentence] of MISTAKES) {
  test(`a mistake is one sentence and exit code 2: ${words.join(' ')}`, () => {
    const { status, stdout, stderr } = trainyard(words)
    assert.match(stderr, sentence)
    assert.equal(stdout, '')
    assert.equal(status, 2)
  })
}

test('--debug shows where a mistake was noticed', () => {
  const { status, stderr } = trainyard(['schema', 'docter', '--debug'])
  assert.equal(status, 2)
  assert.match(stderr, /^schema: there is no verb "docter"/)
  assert.match(stderr, /at .*src\/recipes\/schema\.ts:\d+/)
})

test('a folder that is not there is one sentence and exit code 1', () => {
  const { status, stderr } = trainyard(['import', 'hf', 'no/such/folder', '--out', 'x'])
  assert.equal(status, 1)
  assert.match(stderr, /^[^\n]*no\/such\/folder[^\n]*\n$/)
})

test('started in a folder that is gone: one sentence and exit code 2', (t) => {
  if (process.platform !== 'linux') return t.skip('other systems keep the folder, or the name')
  const words = ['pretrain', '--data', 'data', '--out', 'run', '--resume']
  const script = 'rmdir "$PWD" && exec "$0" "$@"'
  const { status, stderr } = spawnSync('/bin/sh', ['-c', script, process.execPath, PROGRAM, ...words], {
    cwd: emptyFolder(),
    encoding: 'utf8',
  })
  assert.equal(status, 2)
  assert.match(stderr, /^trainyard: the folder that it was started in has been removed: [^\n]*\n$/)
})

test('--printConfig prints a file that --config takes; a wrong key in it is named with its file', () => {
  const folder = emptyFolder()
  const printed = trainyard(['doctor', '--json', '--no-measure', '--print-config'])
  assert.deepEqual(JSON.parse(printed.stdout), { measure: false, json: true })
  writeFileSync(join(folder, 'doctor.json'), printed.stdout)
  const again = trainyard(['doctor', '--config', 'doctor.json', '--print-config'], {}, folder)
  assert.equal(again.stdout, printed.stdout)
  writeFileSync(join(folder, 'doctor.yaml'), 'jsno: true\n')
  const wrong = trainyard(['doctor', '--config', 'doctor.yaml'], {}, folder)
  assert.equal(wrong.status, 2)
  assert.equal(wrong.stderr, 'doctor.yaml: unknown key jsno for doctor; did you mean json?\n')
})

test('a reader that goes away early is no error', async () => {
  const child = spawn(process.execPath, [PROGRAM, 'help', 'doctor'], { stdio: ['ignore', 'pipe', 'pipe'] })
  let complaints = ''
  child.stderr.on('data', (chunk) => {
    complaints += chunk
  })
  child.stdout.destroy()
  const status = await new Promise((resolve) => child.on('close', resolve))
  assert.equal(complaints, '')
  assert.equal(status, 0)
})

test('schema prints a closed JSON schema of a verb with several words', () => {
  const { status, stdout } = trainyard(['schema', 'import', 'hf'])
  assert.equal(status, 0)
  const schema = JSON.parse(stdout)
  assert.equal(schema.title, 'trainyard import hf')
  assert.equal(schema.$schema, 'https://json-schema.org/draft/2020-12/schema')
  assert.equal(schema.additionalProperties, false)
  assert.deepEqual(schema.required, ['folder', 'out'])
  assert.deepEqual(schema.properties.dtype.enum, ['keep', 'f32', 'bf16', 'f16'])
  assert.equal(schema.properties.dtype.default, 'keep')
})
