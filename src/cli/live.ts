// Redraws a few lines in place at the bottom of a terminal; on a pipe or in a log file, prints a line now and then.
// Writes each picture in one piece and erases only what is left over, so that nothing flickers.
import type { LiveHandle, LiveView } from '../config/context.ts'
import { clip, visibleWidth } from '../display/text.ts'

/** What a terminal is to the display; process.stdout is one. */
export interface Screen {
  write(text: string): unknown
  readonly columns?: number
  readonly rows?: number
  on(event: 'resize', listener: () => void): unknown
  off(event: 'resize', listener: () => void): unknown
}

const ESC = '\u001b['
const HIDE_CURSOR = `${ESC}?25l`
const SHOW_CURSOR = `${ESC}?25h`
// Terminals that know it hold back drawing until the picture is whole; others ignore it.
const BEGIN_PICTURE = `${ESC}?2026h`
const END_PICTURE = `${ESC}?2026l`
const ERASE_TO_END_OF_LINE = `${ESC}K`
const ERASE_BELOW = `${ESC}J`

const FRAME_MS = 100
/** Lines on a pipe: at once, then ever more sparsely, up to one a minute. */
const FIRST_LINE_MS = 2000
const LAST_LINE_MS = 60_000
const LINE_GROWTH = 1.5

interface Display extends LiveHandle {
  /** Takes the picture away, lets `print` write, draws it again. */
  printAbove(print: () => void): void
}

/** Shows `view` in place on a terminal. The program must call stop(), or the cursor stays hidden. */
export function liveOnTerminal(view: LiveView, screen: Screen, now: () => number = () => performance.now()): Display {
  let drawn: string[] = []
  let lastDraw = Number.NEGATIVE_INFINITY
  let timer: NodeJS.Timeout | undefined
  let stopped = false

  // After the window got narrower the terminal has wrapped our lines: count what they take now.
  const home = (): string => {
    const columns = screen.columns ?? 80
    const rows = drawn.reduce((sum, line) => sum + Math.max(1, Math.ceil(visibleWidth(line) / columns)), 0)
    return rows > 0 ? `\r${ESC}${rows}A` : '\r'
  }
  const draw = (): void => {
    const columns = screen.columns ?? 80
    const rows = screen.rows ?? 24
    // The last column and row stay free: writing there makes some terminals scroll.
    const size = { columns: Math.max(1, columns - 1), rows: Math.max(1, rows - 1) }
    const lines = view.frame(size).slice(0, size.rows)
    const picture = lines.map((line) => clip(line, size.columns))
    const body = picture.map((line) => `${line}${ERASE_TO_END_OF_LINE}\n`).join('')
    screen.write(`${BEGIN_PICTURE}${HIDE_CURSOR}${home()}${body}${ERASE_BELOW}${END_PICTURE}`)
    drawn = picture
    lastDraw = now()
  }
  const drawSoon = (): void => {
    timer ??= setTimeout(() => {
      timer = undefined
      if (!stopped) draw()
    }, FRAME_MS)
    timer.unref()
  }
  const onResize = (): void => draw()
  screen.on('resize', onResize)

  return {
    update() {
      if (stopped) return
      if (now() - lastDraw >= FRAME_MS) draw()
      else drawSoon()
    },
    stop() {
      if (stopped) return
      draw()
      stopped = true
      clearTimeout(timer)
      screen.off('resize', onResize)
      screen.write(SHOW_CURSOR)
    },
    printAbove(print) {
      screen.write(`${home()}${ERASE_BELOW}`)
      drawn = []
      print()
      if (!stopped) draw()
    },
  }
}

/** Prints a line of `view` now and then. */
export function liveOnPipe(
  view: LiveView,
  write: (text: string) => void,
  now: () => number = () => performance.now(),
): Display {
  let wait = FIRST_LINE_MS
  let nextLine = Number.NEGATIVE_INFINITY
  let last = ''
  let stopped = false
  const print = (): void => {
    const line = view.line()
    if (line !== last) write(`${line}\n`)
    last = line
  }
  return {
    update() {
      if (stopped || now() < nextLine) return
      print()
      nextLine = now() + wait
      wait = Math.min(LAST_LINE_MS, wait * LINE_GROWTH)
    },
    stop() {
      if (!stopped) print()
      stopped = true
    },
    printAbove: (other) => other(),
  }
}

export type { Display }
