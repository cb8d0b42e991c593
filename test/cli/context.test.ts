// Ctrl-C: the first ends the run in good order, the second at once; inside a scope it ends only the scope.
import assert from 'node:assert/strict'
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

const CONTEXT = new URL('../../src/cli/context.ts', import.meta.url).href

/** A program with `context` in scope that prints 'ready' and then runs `body`. */
function programWith(body: string): string {
  return `
    import { openContext } from ${JSON.stringify(CONTEXT)}
    const { context, close } = openContext({ names: [], load: async () => undefined })
    const aborted = (signal) => new Promise((resolve) => {
      const waiting = setInterval(() => {}, 1000)
      signal.addEventListener('abort', () => { clearInterval(waiting); resolve() })
    })
    context.log('ready')
    ${body}
    close()`
}

/** Starts that program. */
function start(body: string): ChildProcessWithoutNullStreams {
  const program = programWith(body)
  return spawn(process.execPath, ['--input-type=module', '--eval', program])
}

/** Sends SIGINT after each line that `child` prints, as often as `times`; resolves with what it printed and its end. */
async function interrupt(child: ChildProcessWithoutNullStreams, times: number) {
  let sent = 0
  let stdout = ''
  let stderr = ''
  const onText = (): void => {
    if (sent >= times) return
    sent++
    child.kill('SIGINT')
  }
  child.stdout.on('data', (chunk) => {
    stdout += chunk
    onText()
  })
  child.stderr.on('data', (chunk) => {
    stderr += chunk
    onText()
  })
  const [status] = await once(child, 'close')
  return { status, stdout, stderr, sent }
}

test('the first Ctrl-C asks the run to stop and says so', async () => {
  const child = start("await aborted(context.signal); context.log('saved')")
  const { status, stdout, stderr } = await interrupt(child, 1)
  assert.equal(stdout, 'ready\nsaved\n')
  assert.equal(stderr, '\nstopping; Ctrl-C again to stop at once\n')
  assert.equal(status, 0)
})

test('the second Ctrl-C ends the program', async () => {
  const child = start("await aborted(new AbortController().signal); context.log('never')")
  const { status, stdout, sent } = await interrupt(child, 2)
  assert.equal(sent, 2)
  assert.equal(stdout, 'ready\n')
  assert.equal(status, 130)
})

test('what Ctrl-C says is what the work at hand says it ends', async () => {
  const said = async (body: string): Promise<string> => {
    const child = start(`const step = context.interruptNotice('stopping after this step')
      ${body}
      await aborted(context.signal)`)
    return (await interrupt(child, 1)).stderr.split(';')[0]!.trim()
  }
  assert.equal(await said(''), 'stopping after this step')
  assert.equal(await said("context.interruptNotice('ending the chat')"), 'ending the chat')
  assert.equal(await said("context.interruptNotice('ending the chat')[Symbol.dispose]()"), 'stopping after this step')
  assert.equal(await said('step[Symbol.dispose]()'), 'stopping')
})

test('somebody who is asked at a terminal is asked no longer once the run is to stop', async (t) => {
  if (spawnSync('script', ['--version']).status !== 0) return t.skip('needs the program script, which makes a terminal')
  const body = `
    using notice = context.interruptNotice('ending the chat')
    setTimeout(() => process.kill(process.pid, 'SIGINT'), 300)
    context.log('answer: ' + await context.prompt('name? '))
    context.log('again: ' + await context.prompt('name? '))`
  const program = join(mkdtempSync(join(tmpdir(), 'trainyard-context-')), 'ask.mjs')
  writeFileSync(program, programWith(body))
  const child = spawn('script', ['-qec', `"${process.execPath}" "${program}"`, '/dev/null'])
  let stdout = ''
  child.stdout.on('data', (chunk) => {
    stdout += chunk
  })
  const [status] = await once(child, 'close')
  assert.match(stdout, /name\? .*ending the chat; .*answer: undefined\r\nagain: undefined/s)
  assert.equal(status, 0)
})

test('in a scope Ctrl-C ends the scope, not the run', async () => {
  const body = `
    const scope = context.interruptScope()
    await aborted(scope.signal)
    context.log('run goes on: ' + !context.signal.aborted)
    scope[Symbol.dispose]()`
  const { status, stdout, stderr } = await interrupt(start(body), 1)
  assert.equal(stdout, 'ready\nrun goes on: true\n')
  assert.equal(stderr, '')
  assert.equal(status, 0)
})

test('without a terminal nobody is asked, nothing is coloured, and columns have a value', async () => {
  const body = `
    context.log(JSON.stringify([context.isTerminal, context.hasColor, context.canPrompt, context.columns]))
    context.log(String(await context.prompt('name? ')))`
  const { stdout } = await interrupt(start(body), 0)
  assert.equal(stdout, 'ready\n[false,false,false,100]\nundefined\n')
})
