// The layer check finds every kind of breach that is planted in a small tree, and none in a good one or in ours.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { checkLayers, findCycles, violationLine } from '../../tools/check-layers.ts'
import { tempTree } from './temp-tree.ts'

const GOOD: Readonly<Record<string, string>> = {
  'src/core/tensor.ts': "import { join } from 'node:path'\nexport class Tensor { name = join('a', 'b') }\n",
  'src/ops/add.ts': "import type { Tensor } from '../core/tensor.ts'\nexport const add = (x: Tensor) => x\n",
  'src/backends/cpu/device.ts': "import koffi from 'koffi'\nexport class CpuDevice { k = koffi }\n",
  'src/open.ts':
    "import type { CpuDevice } from './backends/cpu/device.ts'\nexport const env = process.env\nexport const open = async (): Promise<CpuDevice> => new (await import('./backends/cpu/device.ts')).CpuDevice()\n",
  'src/config/context.ts': 'export interface RunContext { cwd: string }\n',
  'src/models/llama.ts': "// The device is no concern of ours.\nexport const note = 'on any device or rank'\n",
  'src/train/step.ts':
    "import { open } from '../open.ts'\nimport type { RunContext } from '../config/context.ts'\nexport const step = (c: RunContext) => open() ?? c\n",
  'src/recipes/pretrain.ts':
    "import { part } from './parts.ts'\nimport '../train/step.ts'\nexport default defineRecipe({ part })\n",
  'src/recipes/parts.ts': "export const part = 'defineRecipe('\n",
  'src/cli/main.ts': 'export const main = () => { console.log(process.env.HOME); process.exit(0) }\n',
}

/** The sentences about a good tree to which `planted` was added. */
function sentencesWith(planted: Readonly<Record<string, string>>): string[] {
  using tree = tempTree({ ...GOOD, ...planted })
  return checkLayers(tree.root).map(violationLine)
}

test('our own tree keeps its layers', () => {
  const root = fileURLToPath(new URL('../..', import.meta.url))
  assert.deepEqual(checkLayers(root).map(violationLine), [])
})

test('a good tree has no violations', () => {
  assert.deepEqual(sentencesWith({}), [])
})

const PLANTED: readonly [name: string, files: Record<string, string>, expected: RegExp][] = [
  [
    'core importing ops',
    { 'src/core/bad.ts': "import { add } from '../ops/add.ts'\nexport { add }\n" },
    /^src\/core\/bad\.ts:1 imports src\/ops\/add\.ts: core may import nothing of ops; it may use nothing of ours$/,
  ],
  [
    'a type counts too',
    { 'src/core/bad.ts': "\nimport type { RunContext } from '../config/context.ts'\nexport type C = RunContext\n" },
    /^src\/core\/bad\.ts:2 imports src\/config\/context\.ts/,
  ],
  [
    'a re-export counts too',
    { 'src/data/bad.ts': "export * from '../models/llama.ts'\n" },
    /^src\/data\/bad\.ts:1 imports src\/models/,
  ],
  [
    'an import over several lines',
    { 'src/nn/bad.ts': "import {\n  note,\n} from '../models/llama.ts'\nexport { note }\n" },
    /^src\/nn\/bad\.ts:1 imports src\/models/,
  ],
  [
    'data importing optim',
    { 'src/optim/adam.ts': 'export const adam = 1\n', 'src/data/bad.ts': "import '../optim/adam.ts'\n" },
    /^src\/data\/bad\.ts:1 imports src\/optim/,
  ],
  [
    'backends knowing each other',
    { 'src/backends/meta/bad.ts': "import type { CpuDevice } from '../cpu/device.ts'\nexport type D = CpuDevice\n" },
    /^src\/backends\/meta\/bad\.ts:1 imports src\/backends\/cpu/,
  ],
  [
    'train taking more than types from config',
    { 'src/train/bad.ts': "import { RunContext } from '../config/context.ts'\nexport { RunContext }\n" },
    /nothing other than types of config/,
  ],
  [
    'a recipe importing another',
    { 'src/recipes/bad.ts': "import pretrain from './pretrain.ts'\nexport default pretrain\n" },
    /^src\/recipes\/bad\.ts:1 imports src\/recipes\/pretrain\.ts, a recipe: /,
  ],
  [
    'a backend loaded at once',
    {
      'src/open.ts':
        "import { CpuDevice } from './backends/cpu/device.ts'\nexport const open = () => new CpuDevice()\n",
    },
    /^src\/open\.ts:1 imports src\/backends\/cpu\/device\.ts at once/,
  ],
  [
    'a backend loaded elsewhere',
    { 'src/train/bad.ts': "export const open = () => import('../backends/cpu/device.ts')\n" },
    /^src\/train\/bad\.ts:1 imports src\/backends/,
  ],
  [
    'the public face imported from inside',
    { 'src/index.ts': "export * from './open.ts'\n", 'src/train/bad.ts': "import '../index.ts'\n" },
    /^src\/train\/bad\.ts:1 imports src\/index\.ts, the public face/,
  ],
  [
    'a test imported from source',
    { 'src/data/bad.ts': "import '../../test/helper.ts'\n" },
    /^src\/data\/bad\.ts:1 imports test\/helper\.ts, which is outside src/,
  ],
  ['a package', { 'src/core/bad.ts': "import { z } from 'zod'\nexport { z }\n" }, /the package zod: .*: none$/],
  [
    'a folder without a row',
    { 'src/extras/bad.ts': 'export {}\n' },
    /^src\/extras\/bad\.ts:1 src\/extras is in no layer/,
  ],
  [
    'the environment',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: source text, in which a use inside a template must be found
    { 'src/data/bad.ts': 'export const home = `${process.env.HOME}`\n' },
    /^src\/data\/bad\.ts:1 uses process\.env/,
  ],
  ['the environment, taken apart', { 'src/data/bad.ts': 'export const { env } = process\n' }, /a destructured process/],
  ['an exit', { 'src/data/bad.ts': '\n\nprocess.exitCode = 1\n' }, /^src\/data\/bad\.ts:3 uses process\.exit/],
  ['the console', { 'src/data/bad.ts': "console.log('x')\n" }, /^src\/data\/bad\.ts:1 uses console/],
  ['a model with a device', { 'src/models/bad.ts': 'export const deviceName = 1\n' }, /bad\.ts:1 names deviceName/],
  ['a module with ranks', { 'src/nn/bad.ts': 'export const x = { numRanks: 2 }\n' }, /bad\.ts:1 names numRanks/],
  [
    'a private field with a mesh',
    { 'src/nn/bad.ts': 'export class A {\n  #mesh = 1\n}\n' },
    /bad\.ts:2 names mesh: models and their parts know no mesh/,
  ],
]

for (const [name, files, expected] of PLANTED) {
  test(`found: ${name}`, () => {
    const sentences = sentencesWith(files)
    assert.equal(sentences.length, 1, sentences.join('\n'))
    assert.match(sentences[0]!, expected)
  })
}

test('found: a circle of imports, but not of types', () => {
  const a = "import './b.ts'\n"
  const circle = {
    'src/core/a.ts': a,
    'src/core/b.ts': "import './c.ts'\n",
    'src/core/c.ts': "export * from './a.ts'\n",
  }
  assert.deepEqual(sentencesWith(circle), [
    'src/core/a.ts:1 imports in a circle: src/core/a.ts -> src/core/b.ts -> src/core/c.ts -> src/core/a.ts',
  ])
  const types = { 'src/core/a.ts': a, 'src/core/b.ts': "import type { A } from './a.ts'\nexport type B = A\n" }
  assert.deepEqual(sentencesWith(types), [])
})

test('circles are found each once, the shortest way', () => {
  const graph = new Map([
    ['a', ['b']],
    ['b', ['c', 'a']],
    ['c', ['a']],
    ['d', ['d', 'a']],
  ])
  assert.deepEqual(findCycles(graph), [['a', 'b'], ['d']])
})
