// A target of the campaign: a reader, good files for it, and how they are damaged. How an answer is judged is judge.ts's.
import type { FuzzRandom } from './fuzz-random.ts'
import { mutateBytes, mutateText } from './mutate-bytes.ts'
import { mutateJson } from './mutate-json.ts'
import type { FileSet } from './seeds.ts'

/** What an input is, beside the good files: files with other contents, or gone (undefined). */
export type Changes = ReadonlyMap<string, Buffer | undefined>

/** A reader under test, with one set of good files. */
export interface FuzzTarget {
  readonly name: string
  /** Part of a campaign's inputs, relative to the other targets. */
  readonly weight: number
  readonly files: FileSet
  mutate(random: FuzzRandom): Changes
  /** Reads the files in `folder` and uses what came of them. Throws a TrainyardError where it refuses them. */
  read(folder: string, random: FuzzRandom): void | Promise<void>
  /** What a message may name instead of a file of the folder. */
  readonly names?: RegExp
  /** Wording that is not clear yet, of files that are not this campaign's to change: refused all the same. */
  readonly knownWording?: RegExp
  /** Messages that list several faults have a line for each. */
  readonly isMultiline?: boolean
  /** The reader itself changes the input, as part of the test. */
  readonly changesFiles?: boolean
}

const JSON_NAME = /\.json$/
const TEXT_NAME = /\.(ya?ml|txt|jsonl|tiktoken|jinja)$/

/** Damages one file as what its name says it is; now and then it is gone, or a second one is damaged too. */
export function mutateFiles(
  files: FileSet,
  random: FuzzRandom,
  options: { only?: RegExp; words?: readonly string[] } = {},
): Map<string, Buffer | undefined> {
  const names = [...files.keys()].filter((name) => options.only === undefined || options.only.test(name))
  const changes = new Map<string, Buffer | undefined>()
  do {
    const name = random.pick(names)
    changes.set(name, random.chance(0.02) ? undefined : mutateFile(name, files.get(name)!, random, options.words))
  } while (random.chance(0.1))
  return changes
}

/** Damages the contents of a file of that name. */
export function mutateFile(name: string, bytes: Buffer, random: FuzzRandom, words: readonly string[] = []): Buffer {
  if (JSON_NAME.test(name) && random.chance(0.7)) {
    return Buffer.from(mutateJson(JSON.parse(bytes.toString('utf8')), random))
  }
  if (/\.safetensors$/.test(name) && random.chance(0.6)) return mutateSafetensors(bytes, random)
  if (JSON_NAME.test(name) || TEXT_NAME.test(name)) {
    return mutateText(bytes, random, [...words, '{', '}', '[', ']', '"', '\\', '\0', '\u001b[31m', '\ufeff', '\r\n'])
  }
  return mutateBytes(bytes, random)
}

/** Damages the JSON of a safetensors header, and mostly makes the length before it right again. */
export function mutateSafetensors(bytes: Buffer, random: FuzzRandom): Buffer {
  const length = Number(bytes.readBigUInt64LE(0))
  const header = bytes.subarray(8, 8 + length)
  const data = bytes.subarray(8 + length)
  const changed = Buffer.from(mutateJson(JSON.parse(header.toString('utf8')), random))
  const prefix = Buffer.alloc(8)
  const told = random.chance(0.9) ? changed.length : random.below(2 * changed.length)
  prefix.writeBigUInt64LE(BigInt(told))
  return Buffer.concat([prefix, changed, data])
}
