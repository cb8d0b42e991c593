// Sharded weights: written and read as one set; indexes that lie are refused.
import assert from 'node:assert/strict'
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { type TensorSource, tensorSource } from '../../src/checkpoint/safetensors-writer.ts'
import { WeightsFolder, writeWeightsFolder } from '../../src/checkpoint/weights-folder.ts'
import { CheckpointError } from '../../src/core/errors.ts'

const root = mkdtempSync(join(tmpdir(), 'trainyard-weights-'))
const newFolder = (): string => mkdtempSync(join(root, 'folder-'))
const sources: TensorSource[] = Array.from({ length: 5 }, (_, i) =>
  tensorSource(`layers.${i}.w`, 'f32', [25], new Float32Array(25).fill(i)),
)

test('shards above the limit, one file below, and no stale files when one replaces the other', async () => {
  const folder = newFolder()
  await writeWeightsFolder(folder, sources, { maxShardBytes: 250 })
  assert.deepEqual(readdirSync(folder).sort(), [
    'model-00001-of-00003.safetensors',
    'model-00002-of-00003.safetensors',
    'model-00003-of-00003.safetensors',
    'model.safetensors.index.json',
  ])
  const index = JSON.parse(readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8'))
  assert.deepEqual(index.metadata, { total_size: 500 })
  {
    using weights = new WeightsFolder(folder)
    assert.equal(weights.names.length, 5)
    for (let i = 0; i < 5; i++) assert.deepEqual([...weights.readNumbers(`layers.${i}.w`, 24)], [i])
  }
  await writeWeightsFolder(folder, sources)
  assert.deepEqual(readdirSync(folder), ['model.safetensors'])
  await writeWeightsFolder(folder, sources, { maxShardBytes: 10 })
  assert.equal(readdirSync(folder).length, 6)
  using weights = new WeightsFolder(folder)
  assert.deepEqual([...weights.readNumbers('layers.4.w', 0, 2)], [4, 4])
})

test('a missing shard, a wrong index and a path out of the folder are refused', async () => {
  const folder = newFolder()
  await writeWeightsFolder(folder, sources, { maxShardBytes: 250 })
  const indexPath = join(folder, 'model.safetensors.index.json')
  const index = JSON.parse(readFileSync(indexPath, 'utf8'))
  const refused = (change: (map: Record<string, unknown>) => void, message: RegExp): void => {
    const map = { ...index.weight_map }
    change(map)
    writeFileSync(indexPath, JSON.stringify({ weight_map: map }))
    assert.throws(
      () => new WeightsFolder(folder),
      (error: Error) => error instanceof CheckpointError && message.test(error.message),
    )
  }
  refused((map) => (map['layers.0.w'] = '../model.safetensors'), /same folder/)
  refused((map) => (map['layers.0.w'] = '/etc/passwd'), /same folder/)
  refused((map) => (map['layers.0.w'] = 3), /same folder/)
  refused((map) => (map['layers.9.w'] = 'model-00001-of-00003.safetensors'), /expected layers.9.w in model-00001/)
  refused((map) => (map['layers.0.w'] = 'model-00002-of-00003.safetensors'), /expected layers.0.w in model-00002/)
  refused((map) => clear(map), /expected weight_map/)
  writeFileSync(indexPath, JSON.stringify(index))
  const shard = join(folder, 'model-00002-of-00003.safetensors')
  copyFileSync(join(folder, 'model-00001-of-00003.safetensors'), shard)
  assert.throws(() => new WeightsFolder(folder), /one of the shards is stale/)
  rmSync(shard)
  assert.throws(() => new WeightsFolder(folder), /model-00002-of-00003.safetensors: cannot be opened \(ENOENT\)/)
})

function clear(map: Record<string, unknown>): void {
  for (const key of Object.keys(map)) delete map[key]
}

test('a folder without safetensors says what is there', () => {
  const folder = newFolder()
  assert.throws(() => new WeightsFolder(folder), /found an empty folder/)
  writeFileSync(join(folder, 'pytorch_model.bin'), '')
  assert.throws(() => new WeightsFolder(folder), /pytorch_model.bin, a format that is not read/)
  assert.throws(() => new WeightsFolder(join(folder, 'nowhere')), /no such folder/)
})
