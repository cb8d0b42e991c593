// A recipe: one zod object from which flags, help, file keys, the JSON schema and the saved configuration are made, and
// the function that does the work. Knows no particular recipe.
import type { z } from 'zod'
import { invariant } from '../core/errors.ts'
import type { RunContext } from './context.ts'
import { type Field, listFields } from './field.ts'
import { COMMON_FLAGS } from './flags.ts'
import { resolveConfig } from './resolve.ts'

/** What defineRecipe is given. */
export interface RecipeDefinition<C extends z.ZodObject> {
  /** The words that call it: 'pretrain', 'data prepare'. */
  name: string
  /** One line without a full stop, for the list of verbs. */
  summary: string
  /** What a newcomer must know; paragraphs are parted by an empty line. */
  description?: string
  /** Command lines (without 'trainyard') and what they do. At least one. */
  examples: readonly { command: string; does: string }[]
  config: C
  /** Keys that plain words fill, in order; a list may come last. */
  positional?: readonly (keyof z.output<C> & string)[]
  // A method, so that a recipe of a certain configuration is a Recipe.
  run(config: z.output<C>, context: RunContext): Promise<void>
}

export interface Recipe<C extends z.ZodObject = z.ZodObject> extends RecipeDefinition<C> {
  readonly positional: readonly (keyof z.output<C> & string)[]
  readonly fields: readonly Field[]
}

/** Checks a definition (descriptions present, no clash with the common flags) and completes it. */
export function defineRecipe<C extends z.ZodObject>(definition: RecipeDefinition<C>): Recipe<C> {
  const { name, config, positional = [], examples } = definition
  const fields = listFields(config)
  const keys = fields.map((field) => field.key)
  invariant(examples.length > 0, `recipe ${name} has no example`)
  for (const key of keys) invariant(!(key in COMMON_FLAGS), `recipe ${name}: --${key} is a flag of every recipe`)
  for (const [index, key] of positional.entries()) {
    const field = fields.find((f) => f.key === key)
    invariant(field !== undefined, `recipe ${name}: positional ${key} is not a field`)
    invariant(field.node.type !== 'array' || index === positional.length - 1, `recipe ${name}: a list must come last`)
  }
  return { ...definition, positional, fields }
}

/**
 * Runs a recipe from a program: `await runRecipe(pretrain, { maxSteps: 10 }, context)`.
 * @param values  options that differ from the defaults
 * @throws ConfigError as the command line does
 */
export async function runRecipe<C extends z.ZodObject>(
  recipe: Recipe<C>,
  values: z.input<C>,
  context: RunContext,
): Promise<void> {
  await recipe.run(resolveConfig(recipe.name, recipe.config, [{ source: 'options', values }]), context)
}
