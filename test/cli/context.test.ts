// Ctrl-C: the first ends the run in good order, the second at once; inside a scope it ends only the scope.
import assert from 'node:assert/strict'
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'

const CONTEXT = new URL('../../src/cli/context.ts', import.meta.url).href

/** A program with `context` in scope that prints 'ready' and then runs `body`. */
function start(body: string): ChildProcessWithoutNullStreams {
  const program = `
    import { openContext } from ${JSON.stringify(CONTEXT)}
    const { context, close } = openContext({ names: [], load: async () => undefined })
    const aborted = (signal) => new Promise((resolve) => {
      const waiting = setInterval(() => {}, 1000)
      signal.addEventListener('abort', () => { clearInterval(waiting); resolve() })
    })
    context.log('ready')
    ${body}
    close()`
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
  assert.equal(stderr, '\nstopping after this step; Ctrl-C again to stop at once\n')
  assert.equal(status, 0)
})

test('the second Ctrl-C ends the program', async () => {
  const child = start("await aborted(new AbortController().signal); context.log('never')")
  const { status, stdout, sent } = await interrupt(child, 2)
  assert.equal(sent, 2)
  assert.equal(stdout, 'ready\n')
  assert.equal(status, 130)
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
