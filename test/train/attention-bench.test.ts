// The bench of attention by tiles beside the vanilla form: both must compute the same, and what is counted must be what
// the textbook says.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { openDevice } from '../../src/open.ts'
import { attentionCosts, attentionHeldBytes, compareAttention, longestLength } from '../../src/train/attention-bench.ts'

const device = await openDevice('cpu', { threads: 2 })
after(() => device.close())

for (const shape of [
  { heads: 3, length: 37, headDim: 20 },
  { heads: 2, length: 128, headDim: 32 },
]) {
  test(`both forms agree on ${JSON.stringify(shape)}`, async () => {
    const { tiles, vanilla, distance } = await compareAttention(device, shape, 1)
    assert.ok('forward' in vanilla)
    assert.ok(distance!.out > 0 && distance!.out < 1e-5, `out: ${distance!.out}`)
    assert.ok(distance!.dq > 0 && distance!.dq < 1e-5, `dq: ${distance!.dq}`)
    for (const pass of ['forward', 'backward'] as const) {
      assert.ok(tiles[pass].milliseconds > 0 && vanilla[pass].milliseconds > 0)
    }
  })
}

test('the same forward FLOPs, more in the backward by tiles, and far fewer bytes', () => {
  const shape = { heads: 2, length: 1024, headDim: 64 }
  const [tiles, vanilla] = [attentionCosts(shape, 'tiles', 2), attentionCosts(shape, 'vanilla', 2)]
  assert.equal(tiles.forward.flops, 4 * 2 * 1024 ** 2 * 64)
  assert.equal(vanilla.forward.flops, tiles.forward.flops)
  assert.equal(tiles.backward.flops / vanilla.backward.flops, 5 / 4)
  assert.equal(vanilla.forward.bytes - 4 * 2 * 1024 * 64 * 2, 4 * 2 * 1024 ** 2 * 2)
  assert.ok(vanilla.forward.bytes > 15 * tiles.forward.bytes)
})

test('the longest length fits and the next does not', () => {
  const size = { headsOfToken: 16, headDim: 128, elementBytes: 2 }
  for (const form of ['tiles', 'vanilla'] as const) {
    const memory = 80e9
    const length = longestLength(memory, size, form)
    const held = (n: number): number => attentionHeldBytes({ heads: 16, length: n, headDim: 128 }, form, 2)
    assert.ok(held(length) <= memory && held(length + 1) > memory)
  }
})
