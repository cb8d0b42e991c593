// Counts lines: a total per folder, and files over the limit. Lines are spent, not free. Run alone: node tools/count-lines.ts
import { globSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Files that people write. Recorded data, locks and built things are not counted. */
const COUNTED = '{src,test,tools,bench,examples,docs,native}/**/*.{ts,mjs,py,cc,h,cu,cuh,sh,md}'
const KERNEL = /\.(cc|h|cu|cuh|wgsl)$/

/** Aim for 300; above these a file must be split. Prose has no limit. */
export const LINE_LIMIT = 600
export const KERNEL_LINE_LIMIT = 800

export interface FileLines {
  file: string
  lines: number
  /** undefined: no limit. */
  limit: number | undefined
}

/** The counted files under `root`, by path. */
export function countLines(root: string): FileLines[] {
  return globSync(COUNTED, { cwd: root, exclude: (path) => path.includes('node_modules') })
    .map((path) => path.replaceAll('\\', '/'))
    .sort()
    .map((file) => {
      const lines = readFileSync(join(root, file), 'utf8').split('\n').length - 1
      return { file, lines, limit: limitOf(file) }
    })
}

function limitOf(file: string): number | undefined {
  if (file.endsWith('.md')) return undefined
  return KERNEL.test(file) ? KERNEL_LINE_LIMIT : LINE_LIMIT
}

/** Files over their limit. */
export function tooLong(files: readonly FileLines[]): FileLines[] {
  return files.filter(({ lines, limit }) => limit !== undefined && lines > limit)
}

/** 'src/backends/cpu' and the like: two levels of src, one of everything else. */
function folderOf(file: string): string {
  const parts = file.split('/').slice(0, -1)
  return parts.slice(0, parts[0] === 'src' ? (parts[1] === 'backends' ? 3 : 2) : 1).join('/')
}

/** A line per folder with files, lines and its longest file; the whole at the end. */
export function lineTable(files: readonly FileLines[]): string[] {
  const folders = Map.groupBy(files, ({ file }) => folderOf(file))
  const sum = (some: readonly FileLines[]): number => some.reduce((total, { lines }) => total + lines, 0)
  const rows = [...folders].map(([folder, some]) => {
    const longest = some.reduce((a, b) => (b.lines > a.lines ? b : a))
    return [folder, some.length, sum(some), `${basename(longest.file)} ${longest.lines}`] as const
  })
  const width = Math.max(...rows.map(([folder]) => folder.length), 'folder'.length)
  const line = (folder: string, count: string | number, lines: string | number, longest: string): string =>
    `${folder.padEnd(width)}  ${String(count).padStart(5)}  ${String(lines).padStart(6)}  ${longest}`.trimEnd()
  return [
    line('folder', 'files', 'lines', 'longest'),
    ...rows.map((row) => line(...row)),
    line('all', files.length, sum(files), ''),
  ]
}

if (process.argv[1] !== undefined && basename(process.argv[1]) === 'count-lines.ts') {
  const files = countLines(fileURLToPath(new URL('..', import.meta.url)))
  for (const line of lineTable(files)) process.stdout.write(`${line}\n`)
  for (const { file, lines, limit } of tooLong(files)) {
    process.stdout.write(`${file} has ${lines} lines, ${limit} are allowed: split it\n`)
  }
  process.exitCode = tooLong(files).length === 0 ? 0 : 1
}
