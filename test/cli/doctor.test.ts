// trainyard doctor: what it finds on this machine, measures, and finds in planted folders.
import assert from 'node:assert/strict'
import { chmodSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { test } from 'node:test'
import { tempTree } from '../tools/temp-tree.ts'
import { trainyard } from './program.ts'

interface Finding {
  section: string
  name: string
  state: 'ok' | 'missing' | 'note'
  text: string
}

function findings(options: readonly string[] = [], env: Record<string, string> = {}): Finding[] {
  const { status, stdout, stderr } = trainyard(['doctor', '--json', ...options], env)
  assert.equal(status, 0, stderr)
  return JSON.parse(stdout)
}

function find(all: readonly Finding[], name: string): Finding {
  const found = all.find((finding) => finding.name === name)
  assert.ok(found !== undefined, `no finding called ${name}`)
  return found
}

test('it measures this processor: a peak, and products below it', () => {
  const all = findings()
  const peak = find(all, 'peak')
  assert.equal(peak.state, 'ok')
  const gflops = /^(?:at least )?([\d.]+) ([GT])FLOP\/s in f32: (\d+) threads?, (base|avx2|avx512) kernels$/.exec(
    peak.text,
  )
  assert.ok(gflops !== null, peak.text)
  assert.equal(Number(gflops[3]), availableParallelism())
  const products = find(all, 'products').text
  // A peak that other programs disturbed is called a lower bound, and no share of it is claimed.
  if (peak.text.startsWith('at least')) return assert.match(products, /peak disturbed by other programs/)
  const share = Number(/\(([\d.]+)% of peak\)/.exec(products)?.[1])
  assert.ok(share > 5 && share <= 100, products)
})

test('--no-measure measures nothing, and text and JSON tell the same', () => {
  const all = findings(['--no-measure'])
  assert.deepEqual(
    all.filter(({ name }) => name === 'peak' || name === 'products'),
    [],
  )
  const { stdout } = trainyard(['doctor', '--no-measure'])
  for (const { section, name } of all) {
    assert.match(stdout, new RegExp(`^${section}$`, 'm'))
    assert.ok(
      stdout.split('\n').some((line) => line.startsWith(`  ${name} `)),
      name,
    )
  }
  for (const line of stdout.split('\n')) assert.ok(line.length <= 100, line)
})

test('libraries are found in the folder that is named, the highest version first', () => {
  using tree = tempTree({
    'libnccl.so.1': '',
    'libnccl.so.2.9.1': '',
    'libnccl.so.2.31.0': '',
    'libmpi.so': '',
    'stubs/libcuda.so': '',
  })
  const all = findings(['--no-measure'], { TRAINYARD_LIBRARY_PATH: `/no/such/folder:${tree.root}:${tree.root}/stubs` })
  const { state, text } = find(all, 'libnccl')
  assert.equal(state, 'ok')
  assert.match(text, /libnccl\.so\.2\.31\.0 \(communication between GPUs; from TRAINYARD_LIBRARY_PATH\)$/)
  assert.equal(find(all, 'libmpi').state, 'ok')
  assert.doesNotMatch(find(all, 'libcuda').text, /stubs/)
})

test('GPUs and launchers are what their programs say', () => {
  using tree = tempTree({
    'nvidia-smi': '#!/bin/sh\necho "NVIDIA H100 80GB HBM3, 81559, 570.10"\n',
    mpirun: '#!/bin/sh\necho "mpirun (Open MPI) 4.1.4"\necho more\n',
  })
  for (const name of ['nvidia-smi', 'mpirun']) chmodSync(`${tree.root}/${name}`, 0o755)
  const all = findings(['--no-measure'], { PATH: `${tree.root}:${process.env.PATH}` })
  assert.equal(find(all, 'device').text, 'NVIDIA H100 80GB HBM3, 79.6 GiB, driver 570.10')
  assert.equal(find(all, 'launcher').text, 'mpirun: mpirun (Open MPI) 4.1.4')
})

test('without a compiler it says what does not work, and measures nothing', () => {
  const env = { CXX: 'no-such-compiler' }
  const compiler = find(findings([], env), 'C++')
  assert.equal(compiler.state, 'missing')
  const { stdout, status } = trainyard(['doctor'], env)
  assert.equal(status, 0)
  assert.match(stdout, /^ {2}C\+\+ +missing +would enable the CPU kernels, without which nothing trains/m)
  assert.doesNotMatch(stdout, /^ {2}peak/m)
  assert.match(stdout, /^Missing, and needed .*: C\+\+\.$/m)
})
