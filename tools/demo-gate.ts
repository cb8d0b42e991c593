// Runs the demo as a newcomer does, with nobody at the keyboard, and holds it to its promises: it ends well within five
// minutes, and the model is a better compressor of the held-out text than bzip2 -9. Part of .ci/run, not of npm test.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const MOST_BITS_PER_BYTE = 1.85
const MOST_SECONDS = 300

const program = fileURLToPath(new URL('trainyard.mjs', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'trainyard-demo-'))
const started = performance.now()
const child = spawn(process.execPath, [program, 'demo', '--out', folder], { stdio: ['ignore', 'pipe', 'inherit'] })
let output = ''
child.stdout.setEncoding('utf8').on('data', (text: string) => {
  output += text
  process.stdout.write(text)
})
const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
rmSync(folder, { recursive: true, force: true })
const seconds = (performance.now() - started) / 1000
const bits = (name: string): number =>
  Number(new RegExp(`^ *${name} .*?([\\d.]+)$`, 'm').exec(output)?.[1] ?? Number.NaN)
const [model, bzip2] = [bits('this model'), bits('bzip2 -9')]
const samples = output.match(/^sample at temperature/gm)?.length ?? 0
const checks: [string, boolean][] = [
  [`exit code ${code}, expected 0`, code === 0],
  [`${model} bits per byte, expected at most ${MOST_BITS_PER_BYTE}`, model <= MOST_BITS_PER_BYTE],
  [`bzip2 -9 at ${bzip2}, expected more than the model's ${model}`, bzip2 > model],
  [`${samples} samples, expected 3`, samples === 3],
  [`${seconds.toFixed(0)} s, expected at most ${MOST_SECONDS}`, seconds <= MOST_SECONDS],
]
console.log()
for (const [what, isGood] of checks) console.log(`${isGood ? 'ok    ' : 'FAILED'}  demo: ${what}`)
const failed = checks.filter(([, isGood]) => !isGood).length
console.log(`${checks.length - failed} passed, ${failed} failed`)
process.exitCode = failed > 0 ? 1 : 0
