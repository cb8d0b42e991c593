// How large the numbers of a tensor are, as text: a histogram of their powers of two, one character for two of them. Pure:
// counts in, text out.
const LEVELS = '▁▂▃▄▅▆▇█'

/** Counts of non-zero numbers by exponent: `counts[i]` of those in [2^(first + i), 2^(first + i + 1)). */
export interface ExponentCounts {
  readonly first: number
  readonly counts: ArrayLike<number>
}

/** Exponents that one character stands for. */
const STEP = 2

/**
 * One line for the exponents from `low` to below `high`; what lies outside is in the first and the last character. The
 * height is the share of the numbers; a dot where there are some, but less than a fiftieth of the fullest.
 */
export function exponentBars({ first, counts }: ExponentCounts, low: number, high: number): string {
  const bins = new Array<number>(Math.ceil((high - low) / STEP)).fill(0)
  for (let i = 0; i < counts.length; i++) {
    const bin = Math.floor((first + i - low) / STEP)
    bins[Math.max(0, Math.min(bins.length - 1, bin))]! += counts[i]!
  }
  const most = Math.max(...bins)
  return bins
    .map((count) => {
      if (count === 0) return ' '
      if (count < most / 50) return '·'
      return LEVELS[Math.min(LEVELS.length - 1, Math.floor((count / most) * LEVELS.length))]
    })
    .join('')
}

/** The scale under such lines: exponents of two, every `every` of them. */
export function exponentRuler(low: number, high: number, every = 8): string {
  let line = ''
  for (let exponent = low; exponent < high; exponent += every) {
    line = `${line.padEnd((exponent - low) / STEP)}${exponent}`
  }
  return line
}
