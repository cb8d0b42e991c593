// The verbs of the command line: words -> one line for the list, and the recipe, imported only when it is asked for.
import type { RecipeCatalog } from '../config/context.ts'
import type { Recipe } from '../config/recipe.ts'

export interface Verb {
  /** The recipe's own summary, repeated so that the list of verbs loads no recipe (a test compares them). */
  summary: string
  load(): Promise<Recipe>
}

/** In the order in which a newcomer meets them. */
export const verbs: Readonly<Record<string, Verb>> = {
  demo: {
    summary: 'train a language model on real text, here and now, and talk to it',
    load: async () => (await import('../recipes/demo.ts')).default,
  },
  doctor: {
    summary: 'show what this machine has, and what each missing thing would enable',
    load: async () => (await import('../recipes/doctor.ts')).default,
  },
  'data prepare': {
    summary: 'turn text into token shards to train on',
    load: async () => (await import('../recipes/data-prepare.ts')).default,
  },
  'tokenizer train': {
    summary: 'train a byte-level BPE tokenizer on text',
    load: async () => (await import('../recipes/tokenizer.ts')).tokenizerTrain,
  },
  'tokenizer encode': {
    summary: 'turn text into token ids',
    load: async () => (await import('../recipes/tokenizer.ts')).tokenizerEncode,
  },
  'tokenizer decode': {
    summary: 'turn token ids into text',
    load: async () => (await import('../recipes/tokenizer.ts')).tokenizerDecode,
  },
  'tokenizer inspect': {
    summary: 'show what a tokenizer is, and how it cuts a text',
    load: async () => (await import('../recipes/tokenizer.ts')).tokenizerInspect,
  },
  plan: {
    summary: 'see what a training would take of compute, time and memory, before it is started',
    load: async () => (await import('../recipes/plan.ts')).default,
  },
  pretrain: {
    summary: 'train a model on token shards, from scratch or from given weights',
    load: async () => (await import('../recipes/pretrain.ts')).default,
  },
  generate: {
    summary: 'continue a prompt with a trained model',
    load: async () => (await import('../recipes/generate.ts')).default,
  },
  chat: {
    summary: 'talk to a trained model at a prompt',
    load: async () => (await import('../recipes/chat.ts')).default,
  },
  'verify invariance': {
    summary: 'prove that loss and gradients do not depend on micro-batches and packing',
    load: async () => (await import('../recipes/verify-invariance.ts')).default,
  },
  'verify resume': {
    summary: 'kill a run again and again, and prove that it ends in the same bits',
    load: async () => (await import('../recipes/verify-resume.ts')).default,
  },
  'verify checkpoint': {
    summary: 'check the hashes of checkpoints and say which can be used',
    load: async () => (await import('../recipes/verify-checkpoint.ts')).default,
  },
  'import hf': {
    summary: 'check a Hugging Face folder and copy it into a clean one',
    load: async () => (await import('../recipes/import.ts')).importHf,
  },
  'import llama2c': {
    summary: 'turn a llama2.c model file into a Hugging Face folder',
    load: async () => (await import('../recipes/import.ts')).importLlama2cRecipe,
  },
  'export hf': {
    summary: 'write a model as a Hugging Face folder',
    load: async () => (await import('../recipes/export.ts')).exportHf,
  },
  'export llama2c': {
    summary: 'write a Llama model as a llama2.c file',
    load: async () => (await import('../recipes/export.ts')).exportLlama2cRecipe,
  },
  'plan compare': {
    summary: 'hold what was predicted of a run against what was measured',
    load: async () => (await import('../recipes/plan-compare.ts')).default,
  },
  'plan layout': {
    summary: 'find the fastest way to divide a training over many devices, and see why',
    load: async () => (await import('../recipes/plan-layout.ts')).default,
  },
  'plan fit': {
    summary: 'fit a scaling law to the runs of a CSV file, with intervals',
    load: async () => (await import('../recipes/plan-fit.ts')).default,
  },
  'bench attention': {
    summary: 'attention by tiles beside the vanilla form: time, FLOPs and memory traffic over the length',
    load: async () => (await import('../recipes/bench-attention.ts')).default,
  },
  'bench precision': {
    summary: 'show how large the numbers of a training step are, and what f16 and fp8 would lose of them',
    load: async () => (await import('../recipes/bench-precision.ts')).default,
  },
  sweep: {
    summary: 'train a grid of small models for a budget and say what to train next',
    load: async () => (await import('../recipes/sweep.ts')).default,
  },
  'bench step': {
    summary: 'time training steps on this machine, kernel by kernel',
    load: async () => (await import('../recipes/bench-step.ts')).default,
  },
  card: {
    summary: 'write the model card of a run: data, compute, energy, carbon, evaluation, licence',
    load: async () => (await import('../recipes/card.ts')).default,
  },
  numbers: {
    summary: 'show a number in fp64 to nf4, bit by bit, and what is stored in its place',
    load: async () => (await import('../recipes/numbers.ts')).default,
  },
  schema: {
    summary: "print the JSON schema of a verb's options, for your editor",
    load: async () => (await import('../recipes/schema.ts')).default,
  },
}

export const catalog: RecipeCatalog = {
  names: Object.keys(verbs),
  load: async (name) => (Object.hasOwn(verbs, name) ? verbs[name]!.load() : undefined),
}

/** The verb at the start of `argv`, the longest that fits, and the arguments after it. */
export function matchVerb(argv: readonly string[]): { name: string; rest: string[] } | undefined {
  for (const length of [2, 1]) {
    const name = argv.slice(0, length).join(' ')
    if (argv.length >= length && Object.hasOwn(verbs, name)) return { name, rest: argv.slice(length) }
  }
  return undefined
}

/** Verbs that start with this word: 'import' -> ['import hf', 'import llama2c']. */
export function subVerbs(word: string): string[] {
  return catalog.names.filter((name) => name.startsWith(`${word} `))
}
