// The thread pool and memory of the CPU backend: every task of every job runs once, jobs after pauses wake sleeping
// threads, several worker threads each have a context, a process ends by itself with exit code 0, memory is given back.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { buildOptionsFrom, ensureCpuLibrary } from '../../src/backends/cpu/build.ts'
import { CpuLibrary } from '../../src/backends/cpu/library.ts'
import { emptyTensor, tensorFrom } from '../../src/core/allocator.ts'
import type { Device } from '../../src/core/device.ts'
import { ConfigError, DeviceError, ShapeError } from '../../src/core/errors.ts'
import { DEVICE_NAMES, openDevice } from '../../src/open.ts'

const path = await ensureCpuLibrary(buildOptionsFrom(process.env))

const needsProc = { skip: process.platform !== 'linux' && 'needs /proc' }

/** A pool of its own and its fork-join test: runs jobs, returns in how many a task did not run exactly once. */
function openPool(threads: number) {
  const library = new CpuLibrary(path)
  const context = library.plain('context_create', 'i', 'int64_t')(threads)
  const forkJoin = library.plain('fork_join', 'pll', 'int64_t')
  const destroy = library.plain('context_destroy', 'p')
  return {
    run: (jobs: number, tasks: number): number => forkJoin(context, jobs, tasks),
    close: (): void => void destroy(context),
  }
}

test('every task of many jobs runs exactly once, for 1 to 5 threads', () => {
  for (const threads of [1, 2, 3, 5]) {
    const pool = openPool(threads)
    for (const tasks of [1, 2, 3, 7, 64, 1000]) {
      const jobs = tasks > 100 ? 200 : 2000
      assert.equal(pool.run(jobs, tasks), 0, `${threads} threads, ${tasks} tasks`)
    }
    pool.close()
  }
})

// Threads that are late by a whole job once claimed tasks of the next one with the fields of the last: with 16 threads on two
// processors the pool hung in five of six such runs. In a process of its own, because a call that hangs cannot be ended.
test('far more threads than processors: late ones do no harm', () => {
  const program = `
    import { CpuLibrary } from '${new URL('../../src/backends/cpu/library.ts', import.meta.url)}'
    const library = new CpuLibrary(process.argv[1])
    const context = library.plain('context_create', 'i', 'int64_t')(Number(process.argv[2]))
    const wrong = library.plain('fork_join', 'pll', 'int64_t')(context, 300000, 40)
    console.log(wrong + ' wrong')
    process.reallyExit(0)`
  for (const threads of [9, 16]) {
    const words = ['--input-type=module-typescript', '-e', program, path, String(threads)]
    const { stdout, signal } = spawnSync(process.execPath, words, {
      encoding: 'utf8',
      timeout: 120_000,
      killSignal: 'SIGKILL',
    })
    assert.deepEqual([stdout, signal], ['0 wrong\n', null], `${threads} threads`)
  }
})

test('jobs that come after pauses find the sleeping threads', async () => {
  const pool = openPool(3)
  for (let n = 0; n < 60; n++) {
    assert.equal(pool.run(3, 16), 0)
    if (n % 3 === 0) await sleep(2)
  }
  pool.close()
})

test('sleeping threads take part in the next job', needsProc, async () => {
  const listThreads = (): string[] => readdirSync('/proc/self/task')
  const before = new Set(listThreads())
  const pool = openPool(2)
  const [worker, ...others] = listThreads().filter((id) => !before.has(id))
  assert.ok(worker !== undefined && others.length === 0)
  // User and system time of the worker, in clock ticks of 10 ms.
  const ticks = (): number => {
    const fields = readFileSync(`/proc/self/task/${worker}/stat`, 'utf8').split(') ')[1]!.split(' ')
    return Number(fields[11]) + Number(fields[12])
  }
  await sleep(20)
  const start = ticks()
  for (const end = performance.now() + 5000; ticks() === start && performance.now() < end; ) {
    await sleep(2)
    pool.run(1, 3_000_000)
  }
  assert.ok(ticks() > start, 'the worker thread never ran')
  pool.close()
})

test('contexts come and go without leaving threads behind', needsProc, () => {
  const before = readdirSync('/proc/self/task').length
  for (let n = 0; n < 20; n++) {
    const pool = openPool(4)
    pool.run(2, 8)
    pool.close()
  }
  assert.equal(readdirSync('/proc/self/task').length, before)
})

/** A program's end must need nothing from it: no close(), no process.exit(). */
const PROGRAM = `
import { openDevice } from '${new URL('../../src/open.ts', import.meta.url)}'
import { tensorFrom, emptyTensor } from '${new URL('../../src/core/allocator.ts', import.meta.url)}'
import { parentPort } from 'node:worker_threads'
const device = await openDevice('cpu', { threads: 2 })
const a = tensorFrom(device, [100, 200], Float32Array.from({ length: 20000 }, (_, n) => n % 7))
const b = tensorFrom(device, [200, 300], Float32Array.from({ length: 60000 }, (_, n) => n % 5))
const out = emptyTensor(device, [100, 300])
for (let n = 0; n < 200; n++) device.kernels.matmul(out, a, b, {})
const sum = (await device.read(out)).reduce((x, y) => x + y, 0)
if (parentPort) parentPort.postMessage(sum)
else console.log(sum)
`

async function withProgram<T>(body: (file: string) => Promise<T>): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), 'trainyard-pool-'))
  try {
    const file = join(dir, 'program.ts')
    writeFileSync(file, PROGRAM)
    return await body(file)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** What PROGRAM computes. */
function expectedSum(): number {
  let sum = 0
  for (let k = 0; k < 200; k++) {
    let column = 0
    let row = 0
    for (let i = 0; i < 100; i++) column += (i * 200 + k) % 7
    for (let j = 0; j < 300; j++) row += (k * 300 + j) % 5
    sum += column * row
  }
  return sum
}

test('a process that never closes its device ends by itself with exit code 0', async () => {
  await withProgram(async (file) => {
    for (let n = 0; n < 3; n++) {
      const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit'] })
      let text = ''
      child.stdout.on('data', (chunk) => {
        text += chunk
      })
      const [code, signal] = await once(child, 'close')
      assert.deepEqual([code, signal], [0, null])
      assert.equal(Number(text), expectedSum())
    }
  })
})

test('two worker threads compute at once, each with a context, and end', async () => {
  await withProgram(async (file) => {
    const workers = [new Worker(file), new Worker(file)]
    const sums = workers.map((worker) => once(worker, 'message'))
    const ends = workers.map((worker) => once(worker, 'exit'))
    for (const [sum] of await Promise.all(sums)) assert.equal(sum, expectedSum())
    for (const [code] of await Promise.all(ends)) assert.equal(code, 0)
  })
})

test('memory: aligned, given back once, and what does not fit is refused', async () => {
  const device = await openDevice('cpu', { threads: 1 })
  for (const bytes of [1, 64, 100, 5 << 20]) {
    const buffer = device.allocate(bytes)
    assert.equal(buffer.address % 64, 0)
    assert.equal(buffer.bytes, bytes)
    device.release(buffer)
    device.release(buffer)
  }
  assert.throws(() => device.allocate(2 ** 50), /memory/)
  assert.throws(() => tensorFrom(device, [3], [1, 2]), ShapeError)
  const view = tensorFrom(device, [2, 3], [1, 2, 3, 4, 5, 6]).slice(1, 1)
  assert.deepEqual([...(await device.read(view))], [4, 5, 6])
  device.close()
  device.close()
})

test('memory that is no longer reachable is freed by the garbage collector', async () => {
  const device = await openDevice('cpu', { threads: 1 })
  const values = new Float32Array(8 << 20).fill(1)
  // Without frees the process would hold 3 GiB. Callbacks of the collector run between turns of the event loop.
  for (let n = 0; n < 96; n++) {
    device.write(emptyTensor(device, [values.length]), values)
    if (n % 8 === 0) await sleep(1)
  }
  const resident = process.memoryUsage().rss
  assert.ok(resident < 2 ** 30, `${(resident / 2 ** 30).toFixed(1)} GiB resident`)
  device.close()
})

test('openDevice caps the instruction set by environment and refuses an unknown one', async () => {
  const device = await openDevice('cpu', { threads: 1 }, { ...process.env, TRAINYARD_CPU_ISA: 'base' })
  assert.equal(device.isa, 'base')
  device.close()
  const wrong = openDevice('cpu', {}, { ...process.env, TRAINYARD_CPU_ISA: 'mmx' })
  await assert.rejects(wrong, (error) => error instanceof ConfigError && /TRAINYARD_CPU_ISA.*mmx/.test(error.message))
})

test('openDevice opens every device that it names', async () => {
  for (const name of DEVICE_NAMES) {
    let device: Device
    try {
      device = await openDevice(name, name === 'cuda' ? { precision: 'f32' } : {})
    } catch (error) {
      // A machine without a card says so in a sentence of its own.
      if (name === 'cuda' && error instanceof DeviceError && error.message.startsWith('cuda: ')) continue
      throw error
    }
    const out = emptyTensor(device, [1, 1])
    device.kernels.matmul(out, tensorFrom(device, [1, 2], [2, 3]), tensorFrom(device, [2, 1], [5, 7]), {})
    assert.equal((await device.read(out))[0], 31)
    if ('close' in device) (device as { close(): void }).close()
  }
})
