// Text that came from elsewhere (names in files, snippets of damaged files, messages of libraries) as one line that a
// terminal can show without being told what to do by it.

/** Kept of a long text from its end, where messages say what to do. */
const KEPT_END = 250

/**
 * `text` with control characters and line breaks escaped and half surrogate pairs replaced.
 * @param maxLength  above 300: longer texts are cut in their middle
 */
export function oneLine(text: string, maxLength = Number.POSITIVE_INFINITY): string {
  const safe = text
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not reach the terminal
    .replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, escapeUnit)
    .toWellFormed()
  if (safe.length <= maxLength) return safe
  return `${safe.slice(0, maxLength - KEPT_END - 5)} ... ${safe.slice(-KEPT_END)}`.toWellFormed()
}

function escapeUnit(unit: string): string {
  if (unit === '\n') return '\\n'
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
}
