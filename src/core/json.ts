// JSON of files that others wrote: parsed with a bound on its nesting, and shown in messages. Knows no schema.

/** No file that is read here nests a tenth as deep; far deeper ones overflow the stack of whoever walks them. */
const MAX_NESTING = 200
const MAX_SHOWN_LENGTH = 80

/**
 * Parses JSON text.
 * @throws SyntaxError if it is no JSON, or nests deeper than 200 lists and objects
 */
export function parseJson(text: string): unknown {
  const value: unknown = JSON.parse(text)
  if (nestsTooDeep(value)) throw new SyntaxError(`it nests more than ${MAX_NESTING} lists and objects`)
  return value
}

/** Whether a value made of lists and objects nests deeper than 200 of them, as one that contains itself does. */
export function nestsTooDeep(value: unknown): boolean {
  let level: object[] = isContainer(value) ? [value] : []
  for (let depth = 0; level.length > 0; depth++) {
    if (depth === MAX_NESTING) return true
    const below: object[] = []
    // A list that is in several places is looked at once a level: aliases of YAML cannot make this exponential.
    const seen = new Set<object>()
    for (const container of level) {
      for (const child of Array.isArray(container) ? container : Object.values(container)) {
        if (!isContainer(child) || seen.has(child)) continue
        seen.add(child)
        below.push(child)
      }
    }
    level = below
  }
  return false
}

function isContainer(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/** A value from a file as messages show it: JSON, cut after 80 characters; `nothing` where it is absent. */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value)
  const text = nestsTooDeep(value) ? 'something that nests too deep' : (JSON.stringify(value) ?? typeof value)
  return text.length > MAX_SHOWN_LENGTH ? `${text.slice(0, MAX_SHOWN_LENGTH)}...` : text
}
