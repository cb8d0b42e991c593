// npm run check: types, lint and format, layers, line counts, and GPU kernels through nvcc where there are any. A line
// per check, the complaints in full, and at the end "N passed, N failed". Words after the command choose checks.
import { execFile } from 'node:child_process'
import { globSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { backwardDefines } from '../src/backends/cuda/attention-hopper-backward.ts'
import { forwardDefines } from '../src/backends/cuda/attention-hopper-forward.ts'
import { checkLayers, violationLine } from './check-layers.ts'
import { countLines, lineTable, tooLong } from './count-lines.ts'

interface Outcome {
  /** Empty: passed. */
  complaints: readonly string[]
  /** Shown when it passed. */
  note?: string
  /** Why nothing was checked. */
  skipped?: string
}

const root = process.env.TRAINYARD_CHECK_ROOT ?? fileURLToPath(new URL('..', import.meta.url))
const binaries = fileURLToPath(new URL('../node_modules/.bin/', import.meta.url))

/** What `command` prints when it fails, or if it says what it `mayNotSay`; nothing when it succeeds. */
async function complaintsOf(command: string, args: readonly string[], mayNotSay?: RegExp): Promise<string[]> {
  try {
    const { stdout, stderr } = await promisify(execFile)(command, [...args], { cwd: root, maxBuffer: 1 << 26 })
    const said = `${stdout}${stderr}`.trim()
    return mayNotSay?.test(said) ? [said] : []
  } catch (error) {
    const { stdout = '', stderr = '', message } = error as { stdout?: string; stderr?: string; message: string }
    return [`${stdout}${stderr}`.trim() || message]
  }
}

const checks: Readonly<Record<string, () => Outcome | Promise<Outcome>>> = {
  types: async () => ({ complaints: await complaintsOf(join(binaries, 'tsc'), ['--noEmit', '-p', root]) }),
  lint: async () => ({
    complaints: await complaintsOf(join(binaries, 'biome'), ['check', '--error-on-warnings', '--max-diagnostics=50']),
  }),
  layers: () => ({ complaints: checkLayers(root).map(violationLine) }),
  lines: () => {
    const files = countLines(root)
    const complaints = tooLong(files).map(
      ({ file, lines, limit }) => `${file} has ${lines} lines, ${limit} are allowed: split it`,
    )
    return { complaints, note: lineTable(files).at(-1)!.replace('all', '').trim().replace(/ +/, ' files, ') }
  },
  nvcc: compileGpuKernels,
}

/** Kernels that use what cards of compute capability 8.0 lack: wgmma, the copy engine, clusters, 8-bit floats. */
const HOPPER_ONLY = /hopper|decode-step|fp8/
const COMPILES_AT_A_TIME = 2

/** What kernels on wgmma are compiled with; the others are compiled as their files stand. */
const DEFINES: Readonly<Record<string, readonly Record<string, number>[]>> = {
  'attention-hopper-forward.cu': forwardDefines(),
  'attention-hopper-backward.cu': backwardDefines(),
  'decode-step-many.cu': [
    ...[2, 4, 8].map((tiles) => ({ TOKEN_TILES: tiles })),
    ...[0, 64].map((pairs) => ({ TOKEN_TILES: 8, RING_BYTES: 163_840, GATE_PAIRS: pairs })),
  ],
}
/** Notes of ptxas and no errors: it makes wgmma products wait. It once cost attention a tenth of its speed. */
const WAITING_PRODUCTS = /\(C75\d\d\)/

/** Compiles each .cu for the chips that it is for; the text must also be good for NVRTC, which the tests on a card show. */
async function compileGpuKernels(): Promise<Outcome> {
  const kernels = globSync('src/backends/cuda/**/*.cu', { cwd: root }).sort()
  if (kernels.length === 0) return { complaints: [], skipped: 'there are no .cu files' }
  const missing = await complaintsOf('nvcc', ['--version'])
  if (missing.length > 0) return { complaints: [], skipped: 'there is no nvcc on this machine' }
  const folder = mkdtempSync(join(tmpdir(), 'trainyard-nvcc-'))
  const work = kernels.flatMap((kernel) =>
    (HOPPER_ONLY.test(kernel) ? ['90a'] : ['80', '90a']).flatMap((chip) =>
      (DEFINES[basename(kernel)] ?? [{}]).map((values, n) => {
        const defines = Object.entries(values).map(([name, value]) => `-D${name}=${value}`)
        return { kernel, chip, defines, out: join(folder, `${basename(kernel)}-${chip}-${n}`) }
      }),
    ),
  )
  const compilations = work.length
  try {
    const complaints: string[] = []
    const worker = async (): Promise<void> => {
      for (let job = work.pop(); job !== undefined; job = work.pop()) {
        const target = `-gencode=arch=compute_${job.chip},code=sm_${job.chip}`
        const words = ['-std=c++17', target, ...job.defines, '-cubin', job.kernel, '-o', job.out]
        const said = await complaintsOf('nvcc', words, WAITING_PRODUCTS)
        complaints.push(...said.map((text) => `${[job.kernel, ...job.defines].join(' ')}\n${text}`))
      }
    }
    await Promise.all(Array.from({ length: COMPILES_AT_A_TIME }, worker))
    return { complaints, note: `${kernels.length} files for sm_80 and sm_90a, ${compilations} compilations` }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !Object.hasOwn(checks, name))
let passed = 0
let failed = unknown.length
for (const name of unknown)
  process.stdout.write(`${name}: no such check; there are ${Object.keys(checks).join(', ')}\n`)
for (const [name, check] of Object.entries(checks)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  const start = performance.now()
  const { complaints, note = '', skipped } = await check()
  const time = `${((performance.now() - start) / 1000).toFixed(1)} s`
  const state = skipped !== undefined ? `skipped: ${skipped}` : complaints.length === 0 ? 'ok' : 'FAILED'
  process.stdout.write(`${name.padEnd(8)} ${time.padStart(7)}   ${state}${state === 'ok' && note ? `, ${note}` : ''}\n`)
  for (const complaint of complaints) process.stdout.write(`${complaint.replaceAll(/^/gm, '    ')}\n`)
  if (skipped !== undefined) continue
  if (complaints.length === 0) passed++
  else failed++
}
process.stdout.write(`\n${passed} passed, ${failed} failed\n`)
process.exitCode = failed === 0 ? 0 : 1
