// Reading and writing safetensors: a file of the reference implementation with every type, round trips, atomicity.
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { floatToBfloat, floatToHalf } from '../../src/checkpoint/half.ts'
import { type FileDtype, SafetensorsFile } from '../../src/checkpoint/safetensors.ts'
import { tensorSource, writeSafetensors } from '../../src/checkpoint/safetensors-writer.ts'
import { CheckpointError } from '../../src/core/errors.ts'

/** Written by safetensors.torch.save (safetensors for Python, torch 2.13): all types, an empty and a scalar tensor. */
const REFERENCE =
  'OAMAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJmb3JtYXQiOiJwdCJ9LCJiLmk2NCI6eyJkdHlwZSI6Ikk2NCIsInNoYXBlIjpbMl0sImRhdGFfb2Zmc2V0cyI6WzAsMTZdfSwiYS5mNjQiOnsiZHR5cGUiOiJGNjQiLCJzaGFwZSI6WzIsMl0sImRhdGFfb2Zmc2V0cyI6WzE2LDQ4XX0sImEuZjMyIjp7ImR0eXBlIjoiRjMyIiwic2hhcGUiOls4XSwiZGF0YV9vZmZzZXRzIjpbNDgsODBdfSwiYy5lbXB0eSI6eyJkdHlwZSI6IkYzMiIsInNoYXBlIjpbMCwzXSwiZGF0YV9vZmZzZXRzIjpbODAsODBdfSwiYy5zY2FsYXIiOnsiZHR5cGUiOiJGMzIiLCJzaGFwZSI6W10sImRhdGFfb2Zmc2V0cyI6WzgwLDg0XX0sImIuaTMyIjp7ImR0eXBlIjoiSTMyIiwic2hhcGUiOlsyXSwiZGF0YV9vZmZzZXRzIjpbODQsOTJdfSwiYS5iZjE2Ijp7ImR0eXBlIjoiQkYxNiIsInNoYXBlIjpbOF0sImRhdGFfb2Zmc2V0cyI6WzkyLDEwOF19LCJhLmYxNiI6eyJkdHlwZSI6IkYxNiIsInNoYXBlIjpbOF0sImRhdGFfb2Zmc2V0cyI6WzEwOCwxMjRdfSwiYi5pMTYiOnsiZHR5cGUiOiJJMTYiLCJzaGFwZSI6WzJdLCJkYXRhX29mZnNldHMiOlsxMjQsMTI4XX0sImQuZjgiOnsiZHR5cGUiOiJGOF9FNE0zIiwic2hhcGUiOlsyXSwiZGF0YV9vZmZzZXRzIjpbMTI4LDEzMF19LCJiLmk4Ijp7ImR0eXBlIjoiSTgiLCJzaGFwZSI6WzFdLCJkYXRhX29mZnNldHMiOlsxMzAsMTMxXX0sImIudTgiOnsiZHR5cGUiOiJVOCIsInNoYXBlIjpbMV0sImRhdGFfb2Zmc2V0cyI6WzEzMSwxMzJdfSwiYi5ib29sIjp7ImR0eXBlIjoiQk9PTCIsInNoYXBlIjpbMl0sImRhdGFfb2Zmc2V0cyI6WzEzMiwxMzRdfX0gIAAAAAAA////BwAAAAAAAABVVVVVVVXVP5x1AIg85Df+AQAAAAAAAAAAAAAAAAAAQAAAAAAAAACAAACAPwAAIMAA4H9HWdmAMwAASUBvEoM6AAAgQAAAAIAFAAAAAAAAgIA/IMCAR4EzSUCDOgAAAIAAPADB/3sBAEhCGRT9/wQAOECA/wEA'

const folder = mkdtempSync(join(tmpdir(), 'trainyard-safetensors-'))
const reference = join(folder, 'reference.safetensors')
writeFileSync(reference, Buffer.from(REFERENCE, 'base64'))

test('reads every type of a file that the reference implementation wrote', () => {
  using file = new SafetensorsFile(reference)
  assert.deepEqual(file.metadata, { format: 'pt' })
  const expected: Record<string, [FileDtype, number[], number[]]> = {
    'a.f64': ['f64', [2, 2], [1 / 3, -1e300, 5e-324, 2]],
    'a.f32': ['f32', [8], [0, -0, 1, -2.5, 65504, Math.fround(6e-8), 3.140625, Math.fround(1e-3)]],
    'a.f16': ['f16', [8], [0, -0, 1, -2.5, 65504, 2 ** -24, 3.140625, 0.0010004043579101562]],
    'a.bf16': ['bf16', [8], [0, -0, 1, -2.5, 65536, 6.007030606269836e-8, 3.140625, 0.00099945068359375]],
    'b.i64': ['i64', [2], [-(2 ** 40), 7]],
    'b.i32': ['i32', [2], [-(2 ** 31), 5]],
    'b.i16': ['i16', [2], [-3, 4]],
    'b.i8': ['i8', [1], [-128]],
    'b.u8': ['u8', [1], [255]],
    'b.bool': ['bool', [2], [1, 0]],
    'c.empty': ['f32', [0, 3], []],
    'c.scalar': ['f32', [], [2.5]],
  }
  for (const [name, [dtype, shape, values]] of Object.entries(expected)) {
    assert.equal(file.entry(name).dtype, dtype, name)
    assert.deepEqual(file.entry(name).shape, shape, name)
    assert.deepEqual([...file.readNumbers(name)], values, name)
  }
  assert.throws(() => file.readNumbers('d.f8'), CheckpointError)
  assert.deepEqual([...file.readBytes('d.f8')], [0x38, 0x40])
  assert.deepEqual([...file.readNumbers('a.f32', 2, 3)], [1, -2.5, 65504])
  assert.throws(() => file.readNumbers('a.f32', 6, 3), CheckpointError)
  assert.throws(() => file.readNumbers('nowhere'), /there is no tensor nowhere/)
})

test('what is written reads back bit for bit, aligned and sorted', async () => {
  const path = join(folder, 'round.safetensors')
  const floats = Float32Array.from({ length: 999 }, (_, i) => Math.sin(i) * 10 ** ((i % 80) - 40))
  await writeSafetensors(path, [
    tensorSource('z.odd', 'u8', [3], Uint8Array.of(1, 2, 3)),
    tensorSource('b.half', 'f16', [3, 333], floats),
    tensorSource('a.bfloat', 'bf16', [999], floats),
    tensorSource('m.float', 'f32', [9, 111], floats),
    tensorSource('2', 'f64', [2], Float64Array.of(1 / 3, -0)),
    tensorSource('c.raw', 'bf16', [2], Uint16Array.of(0x7fc1, 0x3f80)),
    { name: 'p.pieces', dtype: 'f32', shape: [4], chunks: () => [Float32Array.of(1, 2), Float32Array.of(3, 4)] },
  ])
  const bytes = readFileSync(path)
  assert.equal(Number(bytes.readBigUInt64LE(0)) % 8, 0)
  using file = new SafetensorsFile(path)
  assert.deepEqual(file.metadata, { format: 'pt' })
  const order = [...file.entries.values()].sort((a, b) => a.begin - b.begin)
  assert.deepEqual(
    order.map(({ name }) => name),
    ['2', 'm.float', 'p.pieces', 'a.bfloat', 'b.half', 'c.raw', 'z.odd'],
  )
  for (const { begin, dtype } of order)
    assert.equal(begin % { f64: 8, f32: 4, bf16: 2, f16: 2, u8: 1 }[dtype as 'f64'], 0)
  assert.deepEqual(file.readFloats('m.float'), floats)
  assert.deepEqual([...file.readNumbers('2')], [1 / 3, -0])
  assert.deepEqual([...file.readFloats('p.pieces')], [1, 2, 3, 4])
  assert.deepEqual([...file.readBytes('c.raw')], [0xc1, 0x7f, 0x80, 0x3f])
  const chunked = [...file.chunks('m.float', 100)].flatMap((chunk) => [...chunk])
  assert.deepEqual(chunked, [...floats])
  const wordsOf = (name: string): Uint16Array => new Uint16Array(file.readBytes(name).buffer)
  assert.deepEqual(wordsOf('a.bfloat'), floatToBfloat(floats))
  assert.deepEqual(wordsOf('b.half'), floatToHalf(floats))
})

test('a failing source leaves the old file and no litter', async () => {
  const own = mkdtempSync(join(folder, 'atomic-'))
  const path = join(own, 'model.safetensors')
  await writeSafetensors(path, [tensorSource('w', 'f32', [1], Float32Array.of(7))])
  const tooShort = tensorSource('w', 'f32', [3], Float32Array.of(1, 2))
  await assert.rejects(writeSafetensors(path, [tooShort]), /tensor w: shape \[3\] needs 3 elements, its source gave 2/)
  const tooLong = tensorSource('w', 'f32', [1], Float32Array.of(1, 2))
  await assert.rejects(writeSafetensors(path, [tooLong]), /its source gave more/)
  const twice = tensorSource('w', 'f32', [1], Float32Array.of(1))
  await assert.rejects(writeSafetensors(path, [twice, twice]), /written twice/)
  assert.deepEqual(readdirSync(own), ['model.safetensors'])
  using file = new SafetensorsFile(path)
  assert.deepEqual([...file.readFloats('w')], [7])
})

test('a tensor larger than one chunk streams through', async () => {
  const path = join(folder, 'large.safetensors')
  const rows = 700
  const columns = 3001
  function* chunks() {
    for (let row = 0; row < rows; row++) yield new Float32Array(columns).fill(row)
  }
  await writeSafetensors(path, [{ name: 'w', dtype: 'f32', shape: [rows, columns], chunks }])
  using file = new SafetensorsFile(path)
  assert.deepEqual([...file.readFloats('w', 699 * columns - 1, 2)], [698, 699])
  let count = 0
  for (const chunk of file.chunks('w')) count += chunk.length
  assert.equal(count, rows * columns)
})
