// A slice of the fuzz campaign over the readers (tools/fuzz.ts runs the long one): whatever is in a file, it is read, or
// refused by one sentence that names it; and the harness sees what it is there to see.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { DataError } from '../../src/core/errors.ts'
import { openTargets, sharesOf, Workbench } from './campaign.ts'
import { FuzzRandom } from './fuzz-random.ts'
import type { FuzzTarget } from './target.ts'

const INPUTS = 2000
const targets = await openTargets()

for (const [target, count] of sharesOf(targets, INPUTS)) {
  test(`${target.name}: ${count} damaged inputs are read or refused`, async () => {
    if (target.changesFiles !== true) {
      using good = new Workbench({ ...target, mutate: () => new Map() }, 0)
      assert.equal((await good.run(0)).kind, 'accepted', 'the good files are not read')
    }
    using bench = new Workbench(target, 2)
    let refused = 0
    for (let index = 0; index < count; index++) {
      const { kind, detail } = await bench.run(index)
      assert.notEqual(kind, 'wrong', `node tools/fuzz.ts --seed 2 --only "${target.name}" --input ${index}: ${detail}`)
      if (kind === 'refused') refused++
    }
    assert.ok(refused > count / 20, `only ${refused} of ${count} inputs were refused: they are hardly damaged`)
  })
}

test('an input is the same whenever it is made', () => {
  for (const target of targets) {
    const [first, second] = [0, 1].map(() => [...target.mutate(new FuzzRandom(7, 'again'))])
    assert.deepEqual(first, second, target.name)
  }
})

test('the harness finds readers at fault', async () => {
  const faults: [RegExp, FuzzTarget['read']][] = [
    [/not a TrainyardError: TypeError/, () => void (undefined as unknown as { x: number }).x],
    [/names neither/, () => refuse('the data are damaged, fetch them again')],
    [/hardly a sentence/, (folder) => refuse(folder.slice(0, 9))],
    [/unclear/, (folder) => refuse(`${folder}: expected a number, got undefined`)],
    [/a\.txt was changed/, (folder) => writeFileSync(join(folder, 'a.txt'), 'other')],
    [/new\.txt was changed/, (folder) => writeFileSync(join(folder, 'new.txt'), 'left behind')],
    [/took \d\.\d s/, () => spin(2.2)],
    [/took \d+ MiB of memory/, () => void Buffer.alloc(1100 * 2 ** 20, 1)],
  ]
  for (const [expected, read] of faults) {
    const files = new Map([['a.txt', Buffer.from('text')]])
    using bench = new Workbench({ name: 'planted', weight: 1, files, mutate: () => new Map(), read }, 1)
    const { kind, detail } = await bench.run(0)
    assert.equal(kind, 'wrong', String(expected))
    assert.match(detail, expected)
  }
})

function refuse(message: string): never {
  throw new DataError(message)
}

/** Processor time, because that is what the harness counts: others may be using this machine too. */
function spin(seconds: number): void {
  const start = process.cpuUsage()
  const spent = (): number => {
    const { user, system } = process.cpuUsage(start)
    return (user + system) / 1e6
  }
  while (spent() < seconds);
}
