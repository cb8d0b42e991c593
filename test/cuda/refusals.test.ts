// What a user is told where no card can be used: a card or a driver that is too old, none at all, a missing library, memory
// that others hold. The real program meets stand-in-driver.c, which answers as such a machine's driver does.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { CudaDriver } from '../../src/backends/cuda/driver.ts'
import { openCudaDevice } from '../../src/backends/cuda/open-cuda.ts'
import { DeviceError } from '../../src/core/errors.ts'
import { emptyFolder, trainyard } from '../cli/program.ts'

const folder = emptyFolder()
after(() => rmSync(folder, { recursive: true, force: true }))

function build(name: string, ...flags: string[]): string {
  const path = join(folder, name, 'libcuda.so.1')
  const source = join(import.meta.dirname, 'stand-in-driver.c')
  mkdirSync(dirname(path))
  const { status, stderr } = spawnSync('cc', ['-shared', '-fPIC', '-O1', ...flags, '-o', path, source], {
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
  return path
}

const library = build('now')
const old = build('old', '-DBEFORE_TENSOR_MAPS')

/** The line that a verb with --device cuda ends with on such a machine. */
function refusal(machine: Record<string, string>, { path = library, device = 'cuda' } = {}): string {
  const env = { ...machine, TRAINYARD_LIBRARY_PATH: dirname(path) }
  const { status, stdout, stderr } = trainyard(['generate', 'nowhere', '--device', device], env)
  assert.equal(status, 1, stdout)
  assert.equal(stdout, '')
  assert.equal(stderr.trim().split('\n').length, 1, stderr)
  return stderr
}

test('a card that is too old is named with what is needed', () => {
  assert.match(
    refusal({ STAND_IN_CHIP: '75' }),
    /Stand-in 0 has compute capability 7\.5, 8\.0 \(A100, RTX 30\) or newer is needed: use --device cpu/,
  )
})

test('a driver that is too old is named with its version, even where it lacks functions', () => {
  const told = /the driver is for CUDA 11\.4, 12\.0 or newer is needed: update the NVIDIA driver/
  assert.match(refusal({ STAND_IN_VERSION: '11040' }), told)
  assert.match(refusal({ STAND_IN_VERSION: '11040' }, { path: old }), told)
  assert.match(refusal({}, { path: old }), /has no cuTensorMapEncodeTiled: update the NVIDIA driver/)
})

test('no card, and no such card', () => {
  assert.match(
    refusal({ STAND_IN_INIT: '100' }),
    /does not start \(no CUDA-capable device is detected\): .*use --device cpu/,
  )
  assert.match(refusal({ STAND_IN_CARDS: '0' }), /the driver shows no card: check nvidia-smi and CUDA_VISIBLE_DEVICES/)
  assert.match(
    refusal({ STAND_IN_CARDS: '2' }, { device: 'cuda:2' }),
    /there is no card 2, the driver shows 2: use cuda:0 to cuda:1/,
  )
})

test('a libcuda that is no library is named', () => {
  const path = join(folder, 'broken', 'libcuda.so.1')
  mkdirSync(dirname(path))
  writeFileSync(path, 'no library')
  assert.match(refusal({}, { path }), /broken\/libcuda\.so\.1 cannot be loaded: install a driver for this card/)
})

test('each missing library is named, with where it comes from', () => {
  const open = (names: readonly string[]): void => {
    const path = (name: string, file: string) => (names.includes(name) ? file : undefined)
    const libraries = {
      cuda: path('cuda', library),
      nvrtc: path('nvrtc', 'libnvrtc.so'),
      cublasLt: path('cublasLt', 'libcublasLt.so'),
      cudnn: undefined,
    }
    openCudaDevice({ libraries, cacheDir: folder })
  }
  const told = (what: RegExp) => (error: unknown) =>
    error instanceof DeviceError &&
    what.test(error.message) &&
    /TRAINYARD_LIBRARY_PATH, or use --device cpu$/.test(error.message)
  assert.throws(() => open([]), told(/the NVIDIA driver \(libcuda\) is not on this machine/))
  assert.throws(() => open(['cuda', 'cublasLt']), told(/libnvrtc.*nvidia-cuda-nvrtc/))
  assert.throws(() => open(['cuda', 'nvrtc']), told(/libcublasLt.*nvidia-cublas/))
})

test('a second card in one process is refused until the first is closed; the same card may be opened twice', () => {
  const [first, second] = [new CudaDriver(library), new CudaDriver(library)]
  const refused =
    /cuda: card 1 cannot be opened while this process uses card 0: close that device first, or run a process/
  first.useCard(0)
  assert.throws(() => second.useCard(1), refused)
  second.useCard(0)
  second.leaveCard(0)
  assert.throws(() => second.useCard(1), refused)
  first.leaveCard(0)
  second.useCard(1)
  second.leaveCard(1)
})

test('memory that other programs hold: the driver says no, the sentence says where to look', () => {
  process.env.STAND_IN_CONTEXT = '2'
  after(() => delete process.env.STAND_IN_CONTEXT)
  const driver = new CudaDriver(library)
  assert.throws(
    () => driver.useCard(0),
    /cuDevicePrimaryCtxRetain failed: out of memory \(status 2\); nvidia-smi shows which programs hold the memory/,
  )
})
