// The tape: what it records and asks for, its memory, several tapes in flight, accumulation over micro-batches, frozen
// parameters, and that recomputation gives the same bits while it really forgets.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { ReferenceDevice } from '../../src/backends/reference/device.ts'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import { standaloneTensor, tensorFrom } from '../../src/core/allocator.ts'
import { ShapeError } from '../../src/core/errors.ts'
import { type Kernels, SCALAR } from '../../src/core/kernels.ts'
import type { TapeEntry } from '../../src/core/op.ts'
import type { Parameter } from '../../src/core/parameter.ts'
import { randomKey } from '../../src/core/random.ts'
import { block, currentTape, inScope, type Recompute, Tape } from '../../src/core/tape.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { add } from '../../src/ops/add.ts'
import { attention } from '../../src/ops/attention.ts'
import { crossEntropy } from '../../src/ops/cross-entropy.ts'
import { dropout } from '../../src/ops/dropout.ts'
import { gelu } from '../../src/ops/gelu.ts'
import { layernorm } from '../../src/ops/layernorm.ts'
import { linear } from '../../src/ops/linear.ts'
import { rmsnorm } from '../../src/ops/rmsnorm.ts'
import { rope } from '../../src/ops/rope.ts'
import { swiglu } from '../../src/ops/swiglu.ts'
import { PoisonedArena, valuesOf } from '../ops/harness.ts'
import { type InputSpecs, normals, placeParameters } from '../ops/inputs.ts'

function parametersOn(device: ReferenceDevice, shapes: Record<string, number[]>): Record<string, Parameter> {
  const specs: InputSpecs = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [name, { kind: 'parameter', shape }]),
  )
  const values = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [
      name,
      normals(
        name,
        shape.reduce((a, b) => a * b, 1),
        0,
        0.5,
      ),
    ]),
  )
  return placeParameters(device, specs, values)
}

function inputOn(device: ReferenceDevice, name: string, shape: number[]): Tensor {
  return tensorFrom(
    device,
    shape,
    normals(
      name,
      shape.reduce((a, b) => a * b, 1),
    ),
  )
}

describe('what is recorded', () => {
  test('ops on nothing that needs a gradient are not', () => {
    const device = openReferenceDevice()
    const x = inputOn(device, 'x', [2, 3])
    using tape = new Tape(device)
    assert.equal(gelu(x).producer, undefined)
    tape.watch(x)
    assert.notEqual(gelu(x).producer, undefined)
  })

  test('a tape that does not record computes, and its loss makes no gradient', async () => {
    const device = openReferenceDevice()
    const { w } = parametersOn(device, { w: [5, 3] }) as { w: Parameter }
    const hidden = inputOn(device, 'hidden', [4, 3])
    const targets = tensorFrom(device, [4], [0, 1, 2, 3], 'i32')
    const scalars = tensorFrom(device, [SCALAR.count], new Array(SCALAR.count).fill(1), 'f64')
    const loss = inScope(device, () => {
      assert.equal(currentTape()?.isRecording, false)
      return valuesOf(crossEntropy(hidden, w, targets, scalars).loss)
    })
    assert.ok(Number.isFinite((await loss)[0]))
    assert.equal(w.hasGradient, false)
    assert.equal(currentTape(), undefined)
  })

  test('a frozen parameter gets no gradient, what lies before it does', async () => {
    const device = openReferenceDevice()
    const { a, b } = parametersOn(device, { a: [4, 3], b: [5, 4] }) as { a: Parameter; b: Parameter }
    b.requiresGrad = false
    const phases: string[] = []
    using tape = new Tape(device, { onOp: (entry, phase) => phases.push(`${entry.op.id} ${phase}`) })
    const y = linear(linear(inputOn(device, 'x', [2, 3]), a), b)
    tape.backward(y, inputOn(device, 'dy', [2, 5]))
    assert.deepEqual(phases, ['linear forward', 'linear forward', 'linear backwardInput', 'linear backwardWeight'])
    assert.equal(a.hasGradient, true)
    assert.equal(b.hasGradient, false)
    assert.ok((await valuesOf(a.gradient!)).every(Number.isFinite))
  })

  test('an op whose output nobody used is skipped', async () => {
    const device = openReferenceDevice()
    const { w } = parametersOn(device, { w: [3, 3] }) as { w: Parameter }
    using tape = new Tape(device)
    const x = inputOn(device, 'x', [2, 3])
    linear(x, w)
    const y = linear(x, w)
    tape.backward(y, tensorFrom(device, [2, 3], [1, 0, 0, 0, 0, 0]))
    const dW = await valuesOf(w.gradient!)
    const row = await valuesOf(x)
    assert.deepEqual([...dW.subarray(0, 3)], [...row.subarray(0, 3)])
  })

  test('a watched view asks for the gradient of its base', () => {
    const device = openReferenceDevice()
    const x = inputOn(device, 'x', [2, 6])
    using tape = new Tape(device)
    tape.watch(x.reshape(4, 3))
    const y = gelu(x)
    const gradients = tape.backward(y, inputOn(device, 'dy', [2, 6]))
    assert.notEqual(gradients.find(x), undefined)
  })

  test('a loss on a view of hidden states, with a frozen head, still has a gradient', () => {
    const device = openReferenceDevice()
    const { w } = parametersOn(device, { w: [5, 3] }) as { w: Parameter }
    w.requiresGrad = false
    const x = inputOn(device, 'x', [2, 2, 3])
    const targets = tensorFrom(device, [4], [0, 1, 2, 3], 'i32')
    const scalars = tensorFrom(device, [SCALAR.count], new Array(SCALAR.count).fill(1), 'f64')
    using tape = new Tape(device)
    tape.watch(x)
    const { loss } = crossEntropy(gelu(x).reshape(4, 3), w, targets, scalars)
    assert.notEqual(tape.backward(loss).find(x), undefined)
  })
})

describe('memory', () => {
  test('the second step takes nothing from the device', () => {
    const device = new (class extends ReferenceDevice {
      count = 0
      override allocate(bytes: number) {
        this.count++
        return super.allocate(bytes)
      }
    })()
    const { w } = parametersOn(device, { w: [3, 3] }) as { w: Parameter }
    const x = inputOn(device, 'x', [2, 3])
    const dy = standaloneTensor(device, [2, 3])
    const step = () => {
      using tape = new Tape(device)
      const y = gelu(linear(x, w))
      device.kernels.fill(dy, 1)
      tape.backward(y, dy)
    }
    step()
    const after = device.count
    step()
    step()
    assert.equal(device.count, after)
  })

  test('tapes end in the reverse order of their beginning, and backward needs the current one', () => {
    const device = openReferenceDevice()
    const outer = new Tape(device)
    const inner = new Tape(device)
    assert.throws(() => outer.suspend(), /only the current tape/)
    inner[Symbol.dispose]()
    inner[Symbol.dispose]()
    outer.suspend()
    assert.throws(() => outer.backward(standaloneTensor(device, [1])), /needs the tape to be current/)
    outer.resume()
    assert.throws(() => outer.resume(), /already current/)
    outer[Symbol.dispose]()
    assert.equal(currentTape(), undefined)
  })
})

describe('micro-batches', () => {
  async function gradientOf(order: 'one after the other' | 'both in flight'): Promise<Float64Array> {
    const device = openReferenceDevice()
    const { w } = parametersOn(device, { w: [4, 3] }) as { w: Parameter }
    const [x0, x1] = [inputOn(device, 'x0', [2, 3]), inputOn(device, 'x1', [2, 3])]
    const [d0, d1] = [inputOn(device, 'd0', [2, 4]), inputOn(device, 'd1', [2, 4])]
    const forward = (x: Tensor) => gelu(linear(x, w))
    if (order === 'one after the other') {
      for (const [x, d] of [
        [x0, d0],
        [x1, d1],
      ] as const) {
        using tape = new Tape(device)
        tape.backward(forward(x), d)
      }
      return valuesOf(w.gradient!)
    }
    const first = new Tape(device)
    const y0 = forward(x0)
    first.suspend()
    const second = new Tape(device)
    const y1 = forward(x1)
    second.suspend()
    first.resume()
    first.backward(y0, d0)
    first[Symbol.dispose]()
    second.resume()
    second.backward(y1, d1)
    second[Symbol.dispose]()
    return valuesOf(w.gradient!)
  }

  test('two tapes in flight give the bits of one after the other', async () => {
    assert.deepEqual(await gradientOf('both in flight'), await gradientOf('one after the other'))
  })
})

describe('recomputation', () => {
  const key = randomKey(1, 'tape test')
  const shapes = {
    norm: [12],
    qkv: [20, 12],
    out: [12, 12],
    gateUp: [20, 12],
    down: [12, 10],
  }

  /** A Llama-like layer with dropout: fused projection, rope in place, residuals. */
  function layer(h: Tensor, p: Record<string, Parameter>, t: Record<string, Tensor>): Tensor {
    const tables = { cos: t.cos!, sin: t.sin! }
    const qkv = rope(linear(rmsnorm(h, p.norm!), p.qkv!), t.positions!, tables, { numHeads: 4, headDim: 4 })
    const mixed = attention(qkv.columns(0, 12), qkv.columns(12, 4), qkv.columns(16, 4), {
      numHeads: 3,
      numKeyValueHeads: 1,
    })
    const h1 = add(h, dropout(linear(mixed, p.out!), t.sampleIndex!, { p: 0.3, key }))
    return linear(swiglu(linear(rmsnorm(h1, p.norm!), p.gateUp!)), p.down!, { residual: h1 })
  }

  async function gradientsWith(recompute: Recompute): Promise<{ values: Float64Array[]; forwards: string[] }> {
    const device = openReferenceDevice()
    const p = parametersOn(device, shapes)
    const t = {
      cos: inputOn(device, 'cos', [5, 2]),
      sin: inputOn(device, 'sin', [5, 2]),
      positions: tensorFrom(device, [2, 5], [0, 1, 2, 3, 4, 0, 1, 0, 1, 2], 'i32'),
      sampleIndex: tensorFrom(device, [2, 2], [4, 0, 9, 0], 'i32'),
    }
    const x = inputOn(device, 'x', [2, 5, 12])
    const forwards: string[] = []
    let isBackward = false
    using tape = new Tape(device, {
      recompute,
      allocator: new PoisonedArena(device),
      onOp: (entry, phase) => {
        if (isBackward && phase === 'forward') forwards.push(entry.op.id)
      },
    })
    tape.watch(x)
    let h = x
    for (let i = 0; i < 2; i++) {
      const input = h
      h = block(() => layer(input, p, t))
    }
    poisonDropped(h, device)
    isBackward = true
    const gradients = tape.backward(h, inputOn(device, 'dh', [2, 5, 12]))
    const values = await Promise.all([gradients.of(x), ...Object.values(p).map((w) => w.gradient!)].map(valuesOf))
    return { values, forwards }
  }

  /** What a policy dropped is overwritten with NaN, so that only a real recomputation can bring it back. */
  function poisonDropped(result: Tensor, device: ReferenceDevice): void {
    const seen = new Set<TapeEntry>()
    const visit = (tensor: Tensor | undefined): void => {
      const entry = (tensor?.base ?? tensor)?.producer as TapeEntry | undefined
      if (entry === undefined || seen.has(entry)) return
      seen.add(entry)
      for (const input of Object.values(entry.inputs)) visit(input)
      if (entry.isAlive) return
      // What a backward makes again it makes from statistics, which are kept.
      const isRemade = entry.op.remakesOut?.(entry.attributes) === true
      for (const [name, output] of Object.entries(entry.outputs)) {
        if (output && (name === 'out' || !isRemade)) device.kernels.fill(output, Number.NaN)
      }
    }
    visit(result)
  }

  test('selective and full give the bits of none', async () => {
    const none = await gradientsWith('none')
    const selective = await gradientsWith('selective')
    const full = await gradientsWith('full')
    assert.ok(none.values.every((array) => array.every(Number.isFinite)))
    assert.deepEqual(selective.values, none.values)
    assert.deepEqual(full.values, none.values)
  })

  test('selective runs the cheap ops again unless a backward makes them, full all but the last op of a block', async () => {
    assert.deepEqual((await gradientsWith('none')).forwards, [])
    const selective = (await gradientsWith('selective')).forwards
    assert.deepEqual([...new Set(selective)].sort(), ['add', 'dropout'])
    const full = (await gradientsWith('full')).forwards
    const count = (id: string) => full.filter((other) => other === id).length
    assert.equal(count('attention'), 2)
    assert.equal(count('rope'), 2)
    assert.equal(count('rmsnorm'), 4)
    // qkv, out and gateUp of two layers; down ends its block.
    assert.equal(count('linear'), 6)
  })

  test('frozen norms: their backward, of the input alone, makes again what a linear is trained with', async () => {
    const device = openReferenceDevice()
    const p = parametersOn(device, { first: [6, 6], norm: [6], shift: [6], second: [6, 6], third: [6, 6] })
    p.norm!.requiresGrad = false
    p.shift!.requiresGrad = false
    const x = inputOn(device, 'x', [4, 6])
    const trained = [p.first!, p.second!, p.third!]
    const gradientsOf = async (recompute: Recompute): Promise<Float64Array[]> => {
      for (const parameter of trained) parameter.hasGradient = false
      using tape = new Tape(device, { recompute, allocator: new PoisonedArena(device) })
      const out = block(() => {
        const h = linear(rmsnorm(linear(x, p.first!), p.norm!), p.second!)
        return linear(layernorm(h, p.norm!, p.shift!), p.third!)
      })
      poisonDropped(out, device)
      tape.backward(out, inputOn(device, 'dOut', [4, 6]))
      return await Promise.all(trained.map(({ gradient }) => valuesOf(gradient!)))
    }
    const none = await gradientsOf('none')
    for (const recompute of ['selective', 'full'] as const) assert.deepEqual(await gradientsOf(recompute), none)
  })

  test('a residual that the norm before a linear reads too does not change what the linear is trained with', async () => {
    const device = openReferenceDevice()
    const p = parametersOn(device, { first: [6, 6], norm: [6], second: [6, 6] })
    const x = inputOn(device, 'x', [4, 6])
    const gradientsOf = async (recompute: Recompute): Promise<Float64Array[]> => {
      for (const parameter of Object.values(p)) parameter.hasGradient = false
      using tape = new Tape(device, { recompute, allocator: new PoisonedArena(device) })
      const out = block(() => {
        const h = linear(x, p.first!)
        return linear(rmsnorm(h, p.norm!), p.second!, { residual: h })
      })
      tape.backward(out, inputOn(device, 'dOut', [4, 6]))
      return await Promise.all(Object.values(p).map(({ gradient }) => valuesOf(gradient!)))
    }
    const none = await gradientsOf('none')
    for (const recompute of ['selective', 'full'] as const) assert.deepEqual(await gradientsOf(recompute), none)
  })

  test('blocks do not nest', () => {
    const device = openReferenceDevice()
    using _ = new Tape(device)
    const x = inputOn(device, 'x', [2])
    assert.throws(() => block(() => block(() => x)), /do not nest/)
  })
})

describe('inputs that an op does not take', () => {
  test('a column slice where the kernel reads whole rows', () => {
    const device = openReferenceDevice()
    const x = inputOn(device, 'x', [2, 6])
    using _ = new Tape(device)
    assert.throws(() => gelu(x.columns(2, 4)), /gelu: x must be contiguous, got a column slice \[2, 4\] of rows of 6/)
    assert.throws(() => add(x, x.columns(0, 6).reshape(2, 6).columns(0, 3)), ShapeError)
  })

  test('a view of a parameter, or an activation, as a weight to be trained', () => {
    const device = openReferenceDevice()
    const { weight } = parametersOn(device, { weight: [4, 3] }) as { weight: Parameter }
    const x = inputOn(device, 'x', [2, 3])
    using _ = new Tape(device)
    assert.throws(() => linear(x, weight.slice(0, 2)), /linear: weight must be a whole Parameter to be trained/)
    assert.throws(() => linear(x, linear(x, weight).reshape(4, 2).columns(0, 2)), ShapeError)
    weight.requiresGrad = false
    assert.deepEqual(linear(x, weight.slice(0, 2)).shape, [2, 2])
  })

  test('a tensor that this tape did not make, to go backwards from', () => {
    const device = openReferenceDevice()
    const x = inputOn(device, 'x', [2, 3])
    using tape = new Tape(device)
    assert.throws(() => tape.backward(gelu(x), x), /recorded on this tape/)
  })
})

test('a parameter that goes in as an activation gets its gradient', async () => {
  const device = openReferenceDevice()
  const { input, weight } = parametersOn(device, { input: [2, 3], weight: [4, 3] }) as Record<string, Parameter>
  weight!.requiresGrad = false
  using tape = new Tape(device)
  const out = linear(input!, weight!)
  tape.backward(out, tensorFrom(device, [2, 4], new Float64Array(8).fill(1)))
  const [gradient, w] = [await valuesOf(input!.gradient!), await valuesOf(weight!)]
  for (let i = 0; i < 6; i++) {
    const column = [0, 1, 2, 3].reduce((sum, row) => sum + w[row * 3 + (i % 3)]!, 0)
    assert.ok(Math.abs(gradient[i]! - column) < 1e-6)
  }
})

test('an op that can do both halves of its backward at once does so only if both are wanted', async () => {
  const device = openReferenceDevice()
  const called: string[] = []
  const kernels = new Proxy(device.kernels, {
    get(target, name: string) {
      called.push(name)
      return target[name as keyof Kernels]
    },
  })
  Object.defineProperty(device, 'kernels', { value: kernels })
  const { weight } = parametersOn(device, { weight: [5] }) as { weight: Parameter }
  const x = inputOn(device, 'x', [3, 5])
  const run = async (isWatched: boolean, isTrained: boolean): Promise<Float64Array[]> => {
    weight.requiresGrad = isTrained
    weight.hasGradient = false
    const phases: string[] = []
    using tape = new Tape(device, { onOp: (_, phase) => phases.push(phase) })
    if (isWatched) tape.watch(x)
    const out = rmsnorm(x, weight)
    called.length = 0
    const gradients = tape.backward(out, inputOn(device, 'dOut', [3, 5]))
    assert.deepEqual(phases, [
      'forward',
      ...(isTrained ? ['backwardWeight'] : []),
      ...(isWatched ? ['backwardInput'] : []),
    ])
    const wanted = [...(isWatched ? [gradients.of(x)] : []), ...(isTrained ? [weight.gradient!] : [])]
    return Promise.all(wanted.map(valuesOf))
  }
  const both = await run(true, true)
  assert.deepEqual(called, ['rmsnormBackward'])
  const input = await run(true, false)
  assert.deepEqual(called, ['rmsnormBackwardInput'])
  const trained = await run(false, true)
  assert.deepEqual(called, ['rmsnormBackwardWeight'])
  assert.deepEqual(both, [...input, ...trained])
})

test('a frozen bias before a norm, which could make its gradient, gets none', async () => {
  const device = openReferenceDevice()
  const p = parametersOn(device, { weight: [5, 5], bias: [5], norm: [5], shift: [5] })
  const x = inputOn(device, 'x', [3, 5])
  const weightGradient = async (isBiasTrained: boolean): Promise<Float64Array> => {
    for (const parameter of Object.values(p)) parameter.hasGradient = false
    p.bias!.requiresGrad = isBiasTrained
    using tape = new Tape(device)
    const out = layernorm(linear(x, p.weight!, { bias: p.bias! }), p.norm!, p.shift!)
    tape.backward(out, inputOn(device, 'dOut', [3, 5]))
    assert.equal(p.bias!.hasGradient, isBiasTrained)
    return valuesOf(p.weight!.gradient!)
  }
  assert.deepEqual(await weightGradient(false), await weightGradient(true))
})

test('layernorm trains its weight and its bias together or one by one, with equal gradients', async () => {
  const device = openReferenceDevice()
  const made = parametersOn(device, { weight: [5], bias: [5] }) as { weight: Parameter; bias: Parameter }
  const x = inputOn(device, 'x', [3, 5])
  const gradients = async (trained: readonly (keyof typeof made)[]): Promise<Record<string, number[]>> => {
    for (const name of ['weight', 'bias'] as const) {
      made[name].requiresGrad = trained.includes(name)
      made[name].hasGradient = false
    }
    using tape = new Tape(device)
    tape.backward(layernorm(x, made.weight, made.bias), inputOn(device, 'dOut', [3, 5]))
    return Object.fromEntries(
      await Promise.all(trained.map(async (name) => [name, [...(await valuesOf(made[name].gradient!))]])),
    )
  }
  const both = await gradients(['weight', 'bias'])
  assert.deepEqual(await gradients(['weight']), { weight: both.weight })
  assert.deepEqual(await gradients(['bias']), { bias: both.bias })
})
