// Looks at TypeScript as text: code without its comments and strings, and the imports in it. A scanner of a hundred
// lines, no parser: enough for checks on our own formatted tree, not for any TypeScript.

export interface ImportedFile {
  /** As written: './tensor.ts', 'zod'. */
  specifier: string
  /** Erased at run time. */
  isTypeOnly: boolean
  isDynamic: boolean
  /** From 1. */
  line: number
}

/** What stands before a slash that starts a regular expression; after `x!` it divides. */
const BEFORE_REGEXP =
  /(?:^|[(,=:[&|?{};+\-*%<>~^\n]|(?<![\w$\])])!|\b(?:return|typeof|case|in|of|void|throw|delete|await|yield))\s*$/

/**
 * `text` with comments and the insides of strings, templates and regular expressions as spaces. Lengths and lines stay,
 * so that a place in the result is the same place in `text`. Code inside `${}` stays.
 */
export function codeOnly(text: string): string {
  const kept: string[] = []
  const keep = (end: number): void => {
    kept.push(text.slice(at, end))
    at = end
  }
  const blank = (end: number): void => {
    kept.push(text.slice(at, end).replaceAll(/[^\n]/g, ' '))
    at = end
  }
  /** Braces open inside each `${` that we are in. */
  const substitutions: number[] = []
  const template = (): void => {
    const stop = indexOfUnescaped(text, at, /[`]|\$\{/g)
    blank(stop)
    if (text[stop] === '`') keep(stop + 1)
    else {
      keep(Math.min(stop + 2, text.length))
      substitutions.push(0)
    }
  }
  let at = 0
  while (at < text.length) {
    const character = text[at]!
    const pair = text.slice(at, at + 2)
    if (pair === '//') {
      const end = text.indexOf('\n', at)
      blank(end < 0 ? text.length : end)
    } else if (pair === '/*') {
      const end = text.indexOf('*/', at + 2)
      blank(end < 0 ? text.length : end + 2)
    } else if (character === "'" || character === '"') {
      keep(at + 1)
      blank(indexOfUnescaped(text, at, character === "'" ? /['\n]/g : /["\n]/g))
      keep(Math.min(at + 1, text.length))
    } else if (character === '`') {
      keep(at + 1)
      template()
    } else if (character === '/' && BEFORE_REGEXP.test(kept.join('').slice(-40))) {
      keep(at + 1)
      blank(endOfRegExp(text, at))
      keep(Math.min(at + 1, text.length))
    } else if (character === '{' && substitutions.length > 0) {
      substitutions[substitutions.length - 1]!++
      keep(at + 1)
    } else if (character === '}' && substitutions.length > 0) {
      keep(at + 1)
      if (substitutions.at(-1) === 0) {
        substitutions.pop()
        template()
      } else substitutions[substitutions.length - 1]!--
    } else {
      // A whole run of plain text at once.
      const next = /[/'"`{}]/g
      next.lastIndex = at + 1
      keep(next.exec(text)?.index ?? text.length)
    }
    if (kept.length > 64) kept.splice(0, kept.length, kept.join(''))
  }
  return kept.join('')
}

/** The first match of `stop` from `start` that no backslash takes away, or the end. */
function indexOfUnescaped(text: string, start: number, stop: RegExp): number {
  const pattern = new RegExp(`\\\\[^]|(${stop.source})`, 'g')
  pattern.lastIndex = start
  for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
    if (match[1] !== undefined) return match.index
  }
  return text.length
}

/** The slash that ends the regular expression whose inside starts at `start`; one in a [class] does not. */
function endOfRegExp(text: string, start: number): number {
  let isInClass = false
  for (let at = start; at < text.length; at++) {
    if (text[at] === '\\') at++
    else if (text[at] === '[') isInClass = true
    else if (text[at] === ']') isInClass = false
    else if (text[at] === '\n' || (text[at] === '/' && !isInClass)) return at
  }
  return text.length
}

const STATIC_IMPORT = /\b(?:import|export)\s+(type\s+(?!from\b))?(?:[\w$*{}\s,]*?\bfrom\s*)?(['"])( *)\2/g
const DYNAMIC_IMPORT = /\bimport\s*\(\s*(['"])( *)\1/g

/** What `text` imports or re-exports, in order of lines. `import('./x.ts')` in a type counts as dynamic. */
export function listImports(text: string): ImportedFile[] {
  const code = codeOnly(text)
  const found: ImportedFile[] = []
  const add = (match: RegExpExecArray, length: number, isTypeOnly: boolean, isDynamic: boolean): void => {
    const end = match.index + match[0].length - 1
    const line = text.slice(0, match.index).split('\n').length
    found.push({ specifier: text.slice(end - length, end), isTypeOnly, isDynamic, line })
  }
  for (const match of code.matchAll(STATIC_IMPORT)) add(match, match[3]!.length, match[1] !== undefined, false)
  for (const match of code.matchAll(DYNAMIC_IMPORT)) add(match, match[2]!.length, false, true)
  return found.sort((a, b) => a.line - b.line)
}

/** Names in `code` (from codeOnly) and the line of each. */
export function listNames(code: string): { name: string; line: number }[] {
  return code
    .split('\n')
    .flatMap((text, index) => [...text.matchAll(/[\p{L}_$][\w$]*/gu)].map(([name]) => ({ name, line: index + 1 })))
}

/** 'deviceNames' -> ['device', 'names']; 'KV_CACHE' -> ['kv', 'cache']. */
export function wordsOf(name: string): string[] {
  return (name.match(/[A-Z]+(?![a-z])|[A-Z]?[a-z]+/g) ?? []).map((word) => word.toLowerCase())
}
