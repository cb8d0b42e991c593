// Finds options of a recipe that its code never takes from a configuration, by reading the code: a name counts as read
// where it is a property access (config.lr) or stands in a pattern that takes an object apart ({ lr, seed: s } = config).
// Helpers that stand beside the recipe count as its code. A group that is handed on (model) may be read in any file of
// src/ that the recipe imports.
import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { codeOnly, listImports } from '../../tools/source-text.ts'

/** The keys ('lr', 'model.hiddenSize') that `file` under `root`, and the folder of its parts, never read. */
export function fieldsNotRead(root: string, file: string, keys: readonly string[]): string[] {
  const parts = globSync(`${file.replace(/\.ts$/, '')}/**/*.ts`, { cwd: root })
  const own = [...reachable(root, [file, ...parts])].filter((path) => dirname(path).startsWith(dirname(file)))
  const read = namesRead(root, own)
  const handedOn = namesRead(root, reachable(root, own))
  return keys.filter((key) => {
    const [first, ...rest] = key.split('.')
    return !read.has(first!) || rest.some((name) => !read.has(name) && !handedOn.has(name))
  })
}

function namesRead(root: string, files: Iterable<string>): Set<string> {
  const names = new Set<string>()
  for (const file of files) {
    const code = codeOnly(readFileSync(join(root, file), 'utf8'))
    for (const [, name] of code.matchAll(/[\w$\])!?]\s*\.\s*([\w$]+)/g)) names.add(name!)
    for (const pattern of patternsIn(code)) for (const name of namesIn(pattern)) names.add(name)
  }
  return names
}

/** The insides of `{ ... }` that take an object apart: before a single '=', or as the first thing of a parameter list. */
function patternsIn(code: string): string[] {
  const starts = [...code.matchAll(/\b(?:const|let)\s*\{/g), ...code.matchAll(/\(\s*\{/g)]
  return starts.flatMap((match) => {
    const start = match.index + match[0].length
    const end = endOfBraces(code, start)
    const after = code.slice(end + 1)
    const isParameter = match[0].startsWith('(')
    const takes = isParameter ? /^\s*(?::[^()]*|,[^()]*)?\)\s*(?::[^=]*?)?(?:=>|\{)/ : /^\s*(?::[^=]*)?=(?![=>])/
    return takes.test(after) ? [code.slice(start, end)] : []
  })
}

function endOfBraces(code: string, start: number): number {
  let depth = 1
  for (let at = start; at < code.length; at++) {
    if (code[at] === '{') depth++
    else if (code[at] === '}' && --depth === 0) return at
  }
  return code.length
}

/** Names of properties in a pattern: 'lr, seed: s = 1, model: { width }' -> lr, seed, model, width. */
function namesIn(pattern: string): string[] {
  return [...pattern.matchAll(/(?:^|[{,])\s*([\w$]+)/g)].map(([, name]) => name!)
}

/** Files of src/ that `files` import, near and far, types aside. */
function reachable(root: string, files: readonly string[]): Set<string> {
  const seen = new Set(files)
  for (const file of seen) {
    for (const { specifier, isTypeOnly } of listImports(readFileSync(join(root, file), 'utf8'))) {
      const target = posix.join(dirname(file), specifier)
      if (!isTypeOnly && specifier.startsWith('.') && existsSync(join(root, target))) seen.add(target)
    }
  }
  return seen
}
