// What every recipe must be: listed as it calls itself, with help that fits, examples that parse, a closed JSON schema,
// and no option that its code never reads.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { verbs } from '../../src/cli/verbs.ts'
import { inputSchema } from '../../src/config/field.ts'
import { parseFlags } from '../../src/config/flags.ts'
import { recipeHelp } from '../../src/config/help.ts'
import type { Recipe } from '../../src/config/recipe.ts'
import { resolveConfig } from '../../src/config/resolve.ts'
import { tempTree } from '../tools/temp-tree.ts'
import { fieldsNotRead } from './fields-read.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** 'src/recipes/pretrain.ts', from the import in the verb's loader. */
function fileOf(verb: string): string {
  const path = /import\('\.\.\/(recipes\/[^']+)'\)/.exec(verbs[verb]!.load.toString())?.[1]
  assert.ok(path !== undefined, `the loader of ${verb} imports no recipe`)
  return `src/${path}`
}

/** The arguments in the command of an example: quotes are taken away, a pipe or redirection ends it. */
function wordsOf(command: string): string[] {
  const words = command.match(/"[^"]*"|'[^']*'|\S+/g) ?? []
  const end = words.findIndex((word) => word === '>' || word === '|')
  return words.slice(0, end < 0 ? undefined : end).map((word) => word.replaceAll(/^["']|["']$/g, ''))
}

for (const [name, verb] of Object.entries(verbs)) {
  test(`${name}: called by its name, summed up as in the list of verbs`, async () => {
    const recipe = await verb.load()
    assert.equal(recipe.name, name)
    assert.equal(recipe.summary, verb.summary)
    assert.doesNotMatch(recipe.summary, /\.$/)
    for (const { key, description } of recipe.fields) {
      assert.match(description, /^[a-zA-Z0-9].*[^.]$/s, `${key}: one line without a full stop`)
      assert.doesNotMatch(description, /\n/, key)
    }
  })

  test(`${name}: help fits in 100 columns`, async () => {
    const lines = recipeHelp(await verb.load(), 100).split('\n')
    for (const line of lines) assert.ok(line.length <= 100, line)
  })

  test(`${name}: examples are right`, async () => {
    const recipe = await verb.load()
    for (const { command } of recipe.examples) {
      const words = wordsOf(command)
      const own = name.split(' ').length
      assert.equal(words.slice(0, own).join(' '), name, command)
      const { values } = parseFlags(name, recipe.fields, recipe.positional, words.slice(own))
      resolveConfig(name, recipe.config, [{ source: 'flags', values }])
    }
  })

  test(`${name}: the schema refuses unknown keys and describes the known`, async () => {
    const { properties } = inputSchema((await verb.load()).config)
    assert.ok(properties !== undefined)
    const keys = (await verb.load()).fields.map(({ key }) => key.split('.')[0]!)
    assert.deepEqual(Object.keys(properties), [...new Set(keys)])
  })

  test(`${name}: every option is read`, async () => {
    const recipe: Recipe = await verb.load()
    const keys = recipe.fields.map(({ key }) => key)
    assert.deepEqual(fieldsNotRead(ROOT, fileOf(name), keys), [])
  })
}

test('an option that nothing reads is found', () => {
  const recipe = (body: string): string =>
    `import { z } from 'zod'\nimport { train } from '../train/step.ts'\nconst lr = field(z.number())\nexport const config = z.object({ lr, seed: field(z.number()), model: z.object({ width: field(z.number()) }) })\n${body}\n`
  const unread = (body: string): string[] => {
    using tree = tempTree({
      'src/recipes/x.ts': recipe(body),
      'src/train/step.ts': 'export const train = (model: { width: number }) => model.width\n',
    })
    return fieldsNotRead(tree.root, 'src/recipes/x.ts', ['lr', 'seed', 'model.width'])
  }
  assert.deepEqual(unread('// config.lr, config.seed'), ['lr', 'seed', 'model.width'])
  assert.deepEqual(unread('use(config.lr)\nuse("config.seed")\ntrain(config.model)'), ['seed'])
  assert.deepEqual(unread('const { lr, seed: s = 1, model } = config'), [])
  assert.deepEqual(unread('async function run({ seed, model: { width } }: Config) { use(width) }'), ['lr'])
  assert.deepEqual(unread('use({ lr, seed: 1 })\ntrain({ width: 1 })'), ['lr', 'seed', 'model.width'])
})
