// The checks of harness.ts must fail when a backward is wrong: every op with every plausible fault of faults.ts, and
// every single gradient of every op when it is one per cent off. An op without faults fails here.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import type { Device } from '../../src/core/device.ts'
import { openCpu } from '../devices.ts'
import type { Precision } from '../tolerances.ts'
import { cases } from './cases.ts'
import { faults } from './faults.ts'
import { type Fault, FaultyDevice, type Half, plantInOp } from './faulty.ts'
import { checkAgainstReference, checkFiniteDifferences, type OpCase, type RunOptions } from './harness.ts'
import { allOps } from './registry.ts'

const reference = openReferenceDevice()
const cpu = await openCpu()
after(() => cpu.close())

/** Which gradients an op has, as its rows show. */
function halvesOf(op: string): Set<Half> {
  const kinds = cases.filter((c) => c.op === op).flatMap((c) => Object.values(c.inputs).map((spec) => spec.kind))
  const halves = new Set<Half>()
  if (kinds.includes('activation')) halves.add('backwardInput')
  if (kinds.includes('parameter')) halves.add('backwardWeight')
  return halves
}

test('every backward of every op has a planted fault', async () => {
  for (const { id } of await allOps()) {
    const planted = new Set(faults.filter((fault) => fault.op === id).map((fault) => fault.half))
    assert.deepEqual([...planted].sort(), [...halvesOf(id)].sort(), `op ${id}`)
  }
})

/** The rows of the fault's op for which the check against the reference says something about gradients. */
async function caughtBy(device: Device, precision: Precision, fault: Fault): Promise<string[]> {
  const caught: string[] = []
  for (const opCase of cases.filter((c) => c.op === fault.op)) {
    const faulty = new FaultyDevice(device, fault.plant)
    const onPhase: RunOptions['onPhase'] = (phase) => {
      faulty.isArmed = phase === 'backward' || fault.inForward === true
    }
    const failures = await checkAgainstReference(faulty, precision, reference, opCase, { onPhase })
    if (failures.some((failure) => failure.includes(', backward: '))) caught.push(opCase.name)
  }
  return caught
}

describe('planted in a kernel of the cpu', () => {
  for (const fault of faults) {
    test(`${fault.op}, ${fault.half}: ${fault.name}`, async () => {
      assert.notDeepEqual(await caughtBy(cpu, 'f32', fault), [], 'no row of the table notices this fault')
    })
  }
})

describe('one per cent in a single gradient', () => {
  for (const opCase of cases.filter(isSmall)) {
    for (const [name, spec] of Object.entries(opCase.inputs)) {
      if (spec.kind !== 'activation' && spec.kind !== 'parameter') continue
      test(`${opCase.name}: ${name}`, async () => {
        let isPlanted = false
        const onForward: RunOptions['onForward'] = (entry) => {
          if (entry.op.id !== opCase.op) return
          // The input's name in the table is its name in the op, but for slices of one fused tensor.
          plantInOp(entry, name in entry.inputs ? name : Object.keys(entry.inputs)[0]!)
          isPlanted = true
        }
        const failures = await checkAgainstReference(cpu, 'f32', reference, opCase, { onForward })
        assert.ok(isPlanted)
        assert.ok(failures.length > 0, 'the check against the reference does not notice')
        // The same fault in the reference itself is what finite differences are for.
        const own = await checkFiniteDifferences(reference, opCase, { onForward })
        assert.ok(own.length > 0, 'finite differences do not notice')
      })
    }
  }
})

/** Faults need no large shapes; finite differences of these would be slow. */
function isSmall(opCase: OpCase): boolean {
  return Object.values(opCase.inputs).every(
    (spec) => !('shape' in spec) || spec.shape.reduce((size, n) => size * n, 1) <= 600,
  )
}

test('without a fault the same checks pass', async () => {
  const unharmed = new FaultyDevice(cpu, () => ({}))
  unharmed.isArmed = true
  for (const opCase of cases.filter(isSmall)) {
    assert.deepEqual(await checkAgainstReference(unharmed, 'f32', reference, opCase), [])
  }
})
