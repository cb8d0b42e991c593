// trainyard schema <verb>: the JSON schema of a verb's options, for editors that complete and check YAML files.
import { z } from 'zod'
import { field, inputSchema, type SchemaNode } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { didYouMean } from '../config/suggest.ts'
import { ConfigError } from '../core/errors.ts'

const recipe = defineRecipe({
  name: 'schema',
  summary: "print the JSON schema of a verb's options, for your editor",
  description: `Save it beside your configuration and name it in the first line of the file; editors with a YAML language server then complete keys and mark mistakes:

# yaml-language-server: $schema=pretrain.schema.json`,
  examples: [{ command: 'schema doctor > doctor.schema.json', does: 'the options of doctor' }],
  config: z.object({
    verb: field(z.array(z.string()).min(1), {
      describe: 'the verb, such as doctor or data prepare',
      example: 'doctor',
    }),
  }),
  positional: ['verb'],
  async run(config, context) {
    const name = config.verb.join(' ')
    const target = await context.recipes.load(name)
    if (target === undefined) {
      throw new ConfigError(`schema: there is no verb "${name}"${didYouMean(name, context.recipes.names)}`)
    }
    const about = { title: `trainyard ${name}`, description: target.summary }
    context.log(JSON.stringify({ ...about, ...closed(inputSchema(target.config)) }, null, 2))
  },
})
export default recipe

/** The schema with unknown keys refused, as the command line does. */
function closed(node: SchemaNode): SchemaNode & { additionalProperties?: boolean } {
  if (node.properties === undefined) return node
  const properties = Object.entries(node.properties).map(([name, child]) => [name, closed(child)] as const)
  return { ...node, properties: Object.fromEntries(properties), additionalProperties: false }
}
