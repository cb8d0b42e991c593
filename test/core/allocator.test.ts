// Memory of a step: arenas that grow, arenas that follow a plan, and that a plan made on the meta device never puts two
// things that live at once into the same place: the program then computes the same bits in the planned memory.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { MetaDevice } from '../../src/backends/meta/meta-device.ts'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import {
  ALIGNMENT,
  type Allocator,
  alignUp,
  emptyTensor,
  GrowingArena,
  type MemoryPlan,
  PlannedArena,
  standaloneTensor,
  tensorFrom,
  withAllocator,
} from '../../src/core/allocator.ts'
import type { Device } from '../../src/core/device.ts'
import { MemoryTrace } from '../../src/core/memory-trace.ts'
import { Tape } from '../../src/core/tape.ts'
import { Storage, Tensor } from '../../src/core/tensor.ts'
import { gelu } from '../../src/ops/gelu.ts'
import { linear } from '../../src/ops/linear.ts'
import { rmsnorm } from '../../src/ops/rmsnorm.ts'
import { valuesOf } from '../ops/harness.ts'
import { normals, placeParameters } from '../ops/inputs.ts'

const device = openReferenceDevice()

function allocated(arena: Allocator, bytes: number): Storage {
  const storage = new Storage(device, bytes)
  arena.allocate(storage, 'activation')
  return storage
}

describe('GrowingArena', () => {
  test('slots are aligned, do not overlap, and come back in the same order after a reset', () => {
    const arena = new GrowingArena(device, 1024)
    const first = [8, 100, 64, 512, 4000, 8, 600].map((bytes) => allocated(arena, bytes))
    for (const [i, a] of first.entries()) {
      assert.equal(a.byteOffset % ALIGNMENT, 0)
      assert.ok(a.byteOffset + a.bytes <= a.buffer!.bytes)
      for (const b of first.slice(0, i)) {
        const apart =
          a.buffer !== b.buffer || a.byteOffset >= b.byteOffset + b.bytes || b.byteOffset >= a.byteOffset + a.bytes
        assert.ok(apart)
      }
    }
    const held = arena.bytes
    arena.reset()
    const second = first.map((storage) => allocated(arena, storage.bytes))
    assert.deepEqual(
      second.map((storage) => [storage.buffer, storage.byteOffset]),
      first.map((storage) => [storage.buffer, storage.byteOffset]),
    )
    assert.equal(arena.bytes, held)
  })
})

describe('PlannedArena', () => {
  const plan: MemoryPlan = {
    totalBytes: 192,
    sizes: [64, 100],
    keptOffsets: [],
    offsets: [0, 64],
    peakByKind: { activation: 192, gradient: 0, workspace: 0 },
  }

  test('replays the plan, and says when the program is another one', () => {
    const arena = new PlannedArena(plan, device.allocate(192))
    assert.equal(allocated(arena, 64).byteOffset, 0)
    assert.equal(arena.isComplete, false)
    assert.equal(allocated(arena, 100).byteOffset, 64)
    assert.equal(arena.isComplete, true)
    assert.throws(() => allocated(arena, 8), /differs from the planned one/)
    arena.reset()
    assert.throws(() => allocated(arena, 72), /allocation 0 differs/)
  })

  test('refuses a buffer that is too small', () => {
    assert.throws(() => new PlannedArena(plan, device.allocate(128)), /smaller than the plan/)
  })
})

describe('scopes', () => {
  test('tensors come from the innermost scope, and a body that throws ends its own', () => {
    const outer = new GrowingArena(device, 256)
    const inner = new GrowingArena(device, 256)
    withAllocator(outer, () => {
      const a = emptyTensor(device, [2])
      assert.throws(() =>
        withAllocator(inner, () => {
          assert.notEqual(emptyTensor(device, [2]).storage.buffer, a.storage.buffer)
          throw new Error('stop')
        }),
      )
      assert.equal(emptyTensor(device, [2]).storage.buffer, a.storage.buffer)
    })
    assert.notEqual(emptyTensor(device, [2]).storage.buffer, standaloneTensor(device, [2]).storage.buffer)
  })
})

/** Allocations and the kernel calls that touch them, at random. */
const traces = fc.array(
  fc.oneof(
    fc.record({ bytes: fc.integer({ min: 1, max: 1000 }) }),
    fc.record({ touches: fc.array(fc.nat(30), { maxLength: 4 }) }),
  ),
  { minLength: 1, maxLength: 60 },
)

test('a plan keeps apart what is alive together', () => {
  fc.assert(
    fc.property(traces, (steps) => {
      const meta = new MetaDevice({
        floatDtype: 'f32',
        masterDtype: 'f32',
        logitsChunkElements: 1 << 22,
        itemBytes: () => 4,
      })
      const trace = new MemoryTrace()
      const tensors: Tensor[] = []
      const lives: { first: number; last: number }[] = []
      let clock = 0
      for (const step of steps) {
        if ('bytes' in step) {
          const storage = new Storage(meta, step.bytes)
          trace.allocate(storage, 'activation')
          tensors.push(new Tensor([1], 'u8', storage))
          lives.push({ first: clock + 1, last: clock + 1 })
        } else {
          const touched = step.touches.filter((n) => n < tensors.length)
          trace.tick(touched.map((n) => tensors[n]))
          clock++
          for (const n of touched) lives[n]!.last = clock
        }
      }
      const plan = trace.plan()
      for (let i = 0; i < tensors.length; i++) {
        assert.equal(plan.offsets[i]! % ALIGNMENT, 0)
        assert.ok(plan.offsets[i]! + plan.sizes[i]! <= plan.totalBytes)
        for (let j = 0; j < i; j++) {
          if (lives[i]!.last < lives[j]!.first || lives[j]!.last < lives[i]!.first) continue
          const apart =
            plan.offsets[i]! >= plan.offsets[j]! + plan.sizes[j]! ||
            plan.offsets[j]! >= plan.offsets[i]! + plan.sizes[i]!
          assert.ok(apart, `allocations ${j} and ${i} overlap`)
        }
      }
      const sum = plan.sizes.reduce((total, bytes) => total + alignUp(bytes), 0)
      assert.ok(plan.totalBytes <= sum)
    }),
    { numRuns: 300 },
  )
})

test('a program gives the same bits in planned memory, which is smaller than all of it together', async () => {
  const shapes = { norm: [6], up: [24, 6], down: [6, 24] }
  const values = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [
      name,
      normals(
        name,
        shape.reduce((a, b) => a * b, 1),
      ),
    ]),
  )
  const specs = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [name, { kind: 'parameter' as const, shape }]),
  )
  const xValues = normals('x', 30)

  /** The same program for real and on meta; weight gradients are all that outlives it. */
  async function run(on: Device, allocator: Allocator): Promise<Float64Array[]> {
    const p = placeParameters(on, specs, values)
    const x = tensorFrom(on, [5, 6], xValues)
    {
      using tape = new Tape(on, { allocator })
      let h = x
      for (let layer = 0; layer < 4; layer++) {
        h = linear(gelu(linear(rmsnorm(h, p.norm!), p.up!)), p.down!, layer === 0 ? {} : { residual: h })
      }
      tape.backward(h, tensorFrom(on, [5, 6], xValues))
    }
    return Promise.all(Object.values(p).map((parameter) => valuesOf(parameter.gradient!)))
  }

  const trace = new MemoryTrace()
  const meta = new MetaDevice(device)
  meta.trace = trace
  await run(meta, trace)
  const plan = trace.plan()
  const arena = new PlannedArena(plan, device.allocate(plan.totalBytes))
  const planned = await run(device, arena)
  assert.ok(arena.isComplete)
  assert.ok(planned.every((gradient) => gradient.every(Number.isFinite)))
  assert.deepEqual(planned, await run(device, new GrowingArena(device)))
  assert.ok(plan.totalBytes < plan.sizes.reduce((sum, bytes) => sum + alignUp(bytes), 0))
})
