// Damaged and hostile safetensors files: whatever the bytes, the answer is tensors or a CheckpointError that names the
// file, never another error, a hang or a large allocation.
import assert from 'node:assert/strict'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseHeader, SafetensorsFile } from '../../src/checkpoint/safetensors.ts'
import { CheckpointError } from '../../src/core/errors.ts'

const path = join(mkdtempSync(join(tmpdir(), 'trainyard-fuzz-')), 'model.safetensors')

function fileOf(header: unknown, dataBytes: number): Uint8Array {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const bytes = Buffer.alloc(8 + json.length + dataBytes)
  bytes.writeBigUInt64LE(BigInt(json.length))
  json.copy(bytes, 8)
  return bytes
}

/** Opens and reads everything; a CheckpointError is an answer too. */
function readAll(bytes: Uint8Array): 'read' | CheckpointError {
  writeFileSync(path, bytes)
  try {
    using file = new SafetensorsFile(path)
    for (const { name, dtype } of file.entries.values()) if (!dtype.startsWith('f8')) file.readNumbers(name)
    return 'read'
  } catch (error) {
    assert.ok(error instanceof CheckpointError, String((error as Error).stack))
    assert.ok(error.message.includes(path) && error.message.length < 1000, error.message)
    return error
  }
}

const entry = (shape: unknown, offsets: unknown, dtype: unknown = 'F32') => ({ dtype, shape, data_offsets: offsets })

test('each fault has its sentence', () => {
  const cases: [unknown, number, RegExp][] = [
    [{ w: entry([2], [0, 8], 'F31') }, 8, /tensor w: unknown dtype F31, expected one of F64/],
    [{ w: entry([2], [0, 8], 'f32') }, 8, /unknown dtype f32/],
    [{ w: entry([2], [0, 8], 'toString') }, 8, /unknown dtype/],
    [{ w: entry([3], [0, 8]) }, 8, /shape \[3\] of f32 needs 12 bytes, its data_offsets span 8/],
    [{ w: entry([2], [0, 8]) }, 7, /data_offsets \[0, 8\] reach outside the 7 data bytes/],
    [{ w: entry([2], [8, 0]) }, 8, /reach outside/],
    [{ w: entry([2], [0, 2 ** 60]) }, 8, /two whole numbers/],
    [{ w: entry([-2], [0, 8]) }, 8, /whole numbers from 0/],
    [{ w: entry([1.5], [0, 6]) }, 8, /whole numbers from 0/],
    [{ w: entry([2 ** 53 - 1, 2 ** 53 - 1, 2 ** 53 - 1], [0, 8]) }, 8, /needs/],
    [{ w: entry('2', [0, 8]) }, 8, /shape must be an array/],
    [{ w: entry([2], [0, 8]), x: entry([2], [4, 12]) }, 12, /tensor x: its data overlaps/],
    [{ w: entry([2], [0, 8]), x: entry([1], [12, 16]) }, 16, /leaves 4 unused bytes/],
    [{ w: entry([2], [0, 8]) }, 9, /1 bytes follow the last tensor/],
    [{ w: 5 }, 0, /must be an object/],
    [[], 0, /not a JSON object/],
    ['{"w":', 0, /not JSON/],
    [{ __metadata__: { a: 1 } }, 0, /must map names to strings/],
  ]
  for (const [header, dataBytes, message] of cases) {
    const answer = readAll(fileOf(header, dataBytes))
    assert.ok(answer !== 'read' && message.test(answer.message), `${JSON.stringify(header)}: ${answer}`)
  }
  const lengths = [0n, 1n << 40n, (1n << 64n) - 1n]
  for (const length of lengths) {
    const bytes = Buffer.alloc(64)
    bytes.writeBigUInt64LE(length)
    assert.notEqual(readAll(bytes), 'read')
  }
  for (const size of [0, 7, 8]) assert.notEqual(readAll(new Uint8Array(size)), 'read')
  assert.throws(() => new SafetensorsFile(join(path, 'nowhere')), CheckpointError)
  assert.throws(() => new SafetensorsFile(tmpdir()), CheckpointError)
})

test('names that are properties of objects are only names', () => {
  const header =
    '{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"constructor":{"dtype":"U8","shape":[],"data_offsets":[4,5]}}'
  writeFileSync(path, fileOf(header, 5))
  using file = new SafetensorsFile(path)
  assert.deepEqual([...file.entries.keys()].sort(), ['__proto__', 'constructor'])
})

const valid = fileOf({ __metadata__: { format: 'pt' }, a: entry([2, 3], [0, 24]), b: entry([5], [24, 34], 'BF16') }, 34)

test('flipped, cut and inserted bytes never get past the header check as something else', () => {
  assert.equal(readAll(valid), 'read')
  const change = fc.record({
    at: fc.nat({ max: valid.length - 1 }),
    byte: fc.integer({ min: 0, max: 255 }),
    cut: fc.option(fc.nat({ max: valid.length })),
  })
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
      let bytes = Uint8Array.from(valid)
      for (const { at, byte, cut } of changes) {
        if (cut !== null) bytes = bytes.slice(0, cut)
        if (at < bytes.length) bytes[at] = byte
      }
      readAll(bytes)
    }),
    { numRuns: 1500, seed: 2 },
  )
})

test('random headers of the right form are read or refused', () => {
  const number = fc.oneof(fc.nat({ max: 40 }), fc.integer(), fc.double(), fc.constant(2 ** 53))
  const value = fc.oneof(
    fc.record({
      dtype: fc.constantFrom('F32', 'BF16', 'U8', 'I64', 'X'),
      shape: fc.array(fc.nat({ max: 4 }), { maxLength: 4 }),
      data_offsets: fc.tuple(number, number),
    }),
    fc.jsonValue(),
  )
  fc.assert(
    fc.property(fc.dictionary(fc.string(), value, { maxKeys: 4 }), fc.nat({ max: 64 }), (header, dataBytes) => {
      readAll(fileOf(header, dataBytes))
    }),
    { numRuns: 1500, seed: 3 },
  )
})

test('a header of many nested brackets is refused, not recursed into', () => {
  const json = Buffer.from('['.repeat(200_000))
  assert.throws(() => parseHeader(json, json.length + 8, path), CheckpointError)
})
