// Numbers for people: bytes, counts, durations, shares. Pure text, no colours.

/** 1536 -> '1.5 KiB'. Powers of 1024. */
export function formatBytes(bytes: number): string {
  if (!Number.isFinite(bytes)) return '-'
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  let value = Math.abs(bytes)
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  // 1023.97 KiB would be written 1024: give it the next unit.
  if (unit > 0 && unit < units.length - 1 && value >= 1023.5) {
    value /= 1024
    unit++
  }
  const text = unit === 0 ? String(Math.round(value)) : threeDigits(value)
  return `${bytes < 0 ? '-' : ''}${text} ${units[unit]}`
}

/** 1234567 -> '1.23M'; below 10,000 with separators: '9,876'. Powers of 1000. */
export function formatCount(count: number): string {
  if (!Number.isFinite(count)) return '-'
  const magnitude = Math.abs(count)
  const sign = count < 0 ? '-' : ''
  if (magnitude < 9999.5) {
    if (Number.isInteger(magnitude) || magnitude >= 1000) return sign + withSeparators(Math.round(magnitude))
    return sign + threeDigits(magnitude)
  }
  const units = ['', 'k', 'M', 'G', 'T', 'P', 'E']
  let value = magnitude
  let unit = 0
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${sign}${threeDigits(value)}${units[unit]}`
}

/** 1.82e11 -> '182 GFLOP/s'. */
export function formatFlops(flopsPerSecond: number): string {
  const [, number = '-', unit = ''] = /^([-\d.,]+)([kMGTPE]?)$/.exec(formatCount(flopsPerSecond)) ?? []
  return `${number} ${unit}FLOP/s`
}

const DAYS_OF_YEAR = 365.25

/** Seconds in the two largest units that matter: '850 ms', '12.3 s', '3m 05s', '2h 07m', '4d 03h', '62.4 years'. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '-'
  if (seconds < 0) return `-${formatDuration(-seconds)}`
  if (seconds === 0) return '0 s'
  if (seconds < 0.9995e-3) return `${threeDigits(seconds * 1e6)} us`
  if (seconds < 0.9995) return `${threeDigits(seconds * 1e3)} ms`
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`
  const total = Math.round(seconds)
  const two = (value: number): string => String(value).padStart(2, '0')
  const minutes = Math.floor(total / 60)
  if (minutes < 60) return `${minutes}m ${two(total % 60)}s`
  const hours = Math.floor(minutes / 60)
  if (hours < 48) return `${hours}h ${two(minutes % 60)}m`
  const days = Math.floor(hours / 24)
  if (days < 2 * DAYS_OF_YEAR) return `${days}d ${two(hours % 24)}h`
  const years = days / DAYS_OF_YEAR
  return `${years < 1000 ? threeDigits(years) : formatCount(years)} years`
}

/** 0.4273 -> '42.7%'. */
export function formatPercent(share: number): string {
  return Number.isFinite(share) ? `${(share * 100).toFixed(1)}%` : '-'
}

/** Three digits that carry meaning: 1.23, 12.3, 123, 0.0123; trailing zeros after the point are dropped. */
export function threeDigits(value: number): string {
  if (value === 0) return '0'
  const text = value.toPrecision(3)
  const plain = text.includes('e') ? String(Number(text)) : text
  return plain.includes('.') && !plain.includes('e') ? plain.replace(/\.?0+$/, '') : plain
}

function withSeparators(value: number): string {
  return String(value).replaceAll(/\B(?=(\d{3})+$)/g, ',')
}
