// The live display on a terminal that is played by a small screen emulator, and on a pipe.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { liveOnPipe, liveOnTerminal, type Screen } from '../../src/cli/live.ts'

/** Keeps what a terminal would show: knows new lines, carriage return, cursor up, erase, and wraps long lines. */
class FakeTerminal implements Screen {
  columns: number
  rows = 10
  readonly lines: string[] = ['']
  isCursorShown = true
  #row = 0
  #column = 0
  #listener: (() => void) | undefined

  constructor(columns = 40) {
    this.columns = columns
  }

  write(text: string): void {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control sequences are what a terminal reads
    for (const [, final, number, other] of text.matchAll(/\u001b\[\??(?=\d*([A-Za-z]))(\d*)[A-Za-z]|(.)/gs)) {
      if (other !== undefined) this.#put(other)
      else this.#control(final!, number === '' ? undefined : Number(number))
    }
  }

  #put(character: string): void {
    if (character === '\r') this.#column = 0
    else if (character === '\n') {
      this.#row++
      this.#column = 0
    } else {
      if (this.#column === this.columns) this.#put('\n')
      const line = (this.lines[this.#row] ?? '').padEnd(this.#column)
      this.lines[this.#row] = line.slice(0, this.#column) + character + line.slice(this.#column + 1)
      this.#column++
    }
    while (this.lines.length <= this.#row) this.lines.push('')
  }

  #control(final: string, number: number | undefined): void {
    const line = this.lines[this.#row] ?? ''
    if (final === 'A') this.#row = Math.max(0, this.#row - (number ?? 1))
    else if (final === 'K') this.lines[this.#row] = line.slice(0, this.#column)
    else if (final === 'J') {
      this.lines[this.#row] = line.slice(0, this.#column)
      this.lines.length = this.#row + 1
    } else if (number === 25) this.isCursorShown = final === 'h'
  }

  on(_event: 'resize', listener: () => void): void {
    this.#listener = listener
  }

  off(_event: 'resize', listener: () => void): void {
    if (this.#listener === listener) this.#listener = undefined
  }

  /** The window becomes `columns` wide; the terminal wraps lines that do not fit any more. */
  resize(columns: number): void {
    const wrapped = this.lines.flatMap((line) => line.match(new RegExp(`.{1,${columns}}`, 'g')) ?? [''])
    this.lines.splice(0, this.lines.length, ...wrapped)
    this.#row = this.lines.length - 1
    this.columns = columns
    this.#listener?.()
  }

  get text(): string {
    return this.lines.join('\n').trimEnd()
  }
}

test('a view is drawn in place, text is printed above it, the last picture stays', () => {
  const screen = new FakeTerminal()
  let clock = 0
  let lines = ['step 1', 'loss 5']
  const view = { frame: () => lines, line: () => 'unused' }
  const live = liveOnTerminal(view, screen, () => clock)
  live.update()
  assert.equal(screen.text, 'step 1\nloss 5')
  assert.equal(screen.isCursorShown, false)
  lines = ['step 2']
  clock += 1000
  live.update()
  assert.equal(screen.text, 'step 2', 'a smaller picture leaves nothing behind')
  live.printAbove(() => screen.write('saved\n'))
  assert.equal(screen.text, 'saved\nstep 2')
  lines = ['step 3', 'loss 4']
  live.stop()
  assert.equal(screen.text, 'saved\nstep 3\nloss 4')
  assert.equal(screen.isCursorShown, true)
  live.update()
  live.stop()
  assert.equal(screen.text, 'saved\nstep 3\nloss 4')
})

test('drawing is rate-limited, and what was held back is drawn soon', async () => {
  const screen = new FakeTerminal()
  let frames = 0
  const live = liveOnTerminal({ frame: () => [`frame ${++frames}`], line: () => '' }, screen)
  for (let n = 0; n < 1000; n++) live.update()
  assert.ok(frames <= 3, `${frames} frames for 1000 updates`)
  const before = frames
  await new Promise((resolve) => setTimeout(resolve, 250))
  assert.ok(frames > before)
  live.stop()
})

test('lines that are too long or too many are cut, so that the screen never scrolls', () => {
  const screen = new FakeTerminal(20)
  const live = liveOnTerminal(
    { frame: () => Array.from({ length: 50 }, () => 'x'.repeat(100)), line: () => '' },
    screen,
  )
  live.update()
  const shown = screen.text.split('\n')
  assert.equal(shown.length, screen.rows - 1)
  for (const line of shown) assert.equal(line, 'x'.repeat(19))
  live.stop()
})

test('a window that gets narrower leaves no torn picture', () => {
  const screen = new FakeTerminal(40)
  const live = liveOnTerminal(
    { frame: ({ columns }) => ['a'.repeat(columns), 'b'.repeat(columns)], line: () => '' },
    screen,
  )
  live.update()
  screen.resize(20)
  assert.equal(screen.text, `${'a'.repeat(19)}\n${'b'.repeat(19)}`)
  live.stop()
})

test('on a pipe a line comes at once, then ever more rarely, and a last one', () => {
  const written: string[] = []
  let clock = 0
  let step = 0
  const live = liveOnPipe(
    { frame: () => [], line: () => `step ${step}` },
    (text) => written.push(text),
    () => clock,
  )
  for (step = 1; step <= 1000; step++) {
    clock += 1000
    live.update()
  }
  const steps = written.map((text) => Number(/^step (\d+)\n$/.exec(text)![1]))
  assert.equal(steps[0], 1)
  assert.ok(steps.length > 15 && steps.length < 35, `${steps.length} lines in 1000 s`)
  const waits = steps.slice(1).map((at, index) => at - steps[index]!)
  assert.ok(Math.max(...waits) <= 61)
  assert.ok(waits[0]! <= 3)
  step = 1001
  live.stop()
  live.stop()
  assert.equal(written.at(-1), 'step 1001\n')
  assert.equal(written.filter((text) => text === 'step 1001\n').length, 1)
})
