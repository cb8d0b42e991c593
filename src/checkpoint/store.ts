// Checkpoint folders of a run: `<run>/checkpoints/step-N/`. Each is written into a hidden sibling, synced, hashed into
// `complete.json` and only then renamed, so that a crash at any moment leaves the older ones whole. What is inside a
// checkpoint is not known here; see run-checkpoint.ts.
import { createHash } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
} from 'node:fs'
import { rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { CheckpointError } from '../core/errors.ts'
import { isJsonObject, readExactly, readJsonObject, syncFolder, temporarySibling, writeContents } from './files.ts'

/** Written last; a checkpoint without it is not complete. */
export const MARKER = 'complete.json'

export interface CheckpointInfo {
  readonly step: number
  readonly path: string
  /** Why it cannot be used, as far as the marker and the sizes of the files tell; absent if nothing is wrong. */
  readonly problem?: string
}

interface Marker {
  readonly version: 1
  readonly step: number
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>
}

/** `<run>/checkpoints`. */
export function checkpointsFolder(runDir: string): string {
  return join(runDir, 'checkpoints')
}

/**
 * Writes the checkpoint of a step: `write` puts files into the (temporary) folder it is given. When this returns, the
 * checkpoint survives a power cut; if it throws or the process dies, there is none and older ones are untouched.
 * A checkpoint of the same step is replaced. Then all but the newest `keepLast` are removed, where that is given.
 * @returns the folder `<run>/checkpoints/step-N`
 */
export async function writeCheckpoint(
  runDir: string,
  step: number,
  write: (folder: string) => Promise<void>,
  options: { keepLast?: number } = {},
): Promise<string> {
  const parent = checkpointsFolder(runDir)
  const target = join(parent, `step-${step}`)
  mkdirSync(parent, { recursive: true })
  syncFolder(runDir)
  const temporary = temporarySibling(target)
  try {
    mkdirSync(temporary)
    await write(temporary)
    await seal(temporary, step)
    const replaced = existsSync(target) ? temporarySibling(target, 'replaced') : undefined
    if (replaced !== undefined) renameSync(target, replaced)
    renameSync(temporary, target)
    syncFolder(parent)
    if (replaced !== undefined) await remove(replaced)
  } catch (error) {
    await remove(temporary)
    if (error instanceof CheckpointError) throw error
    const cause = error as NodeJS.ErrnoException
    const cure = cause.code === 'ENOSPC' ? 'make room there' : 'look at that folder and its disk'
    throw new CheckpointError(
      `the checkpoint of step ${step} could not be written to ${parent} (${cause.message}): ${cure}`,
      { cause },
    )
  }
  if (options.keepLast !== undefined) await pruneCheckpoints(runDir, options.keepLast)
  return target
}

/** Syncs and hashes every file of a folder, then writes its marker. */
async function seal(folder: string, step: number): Promise<void> {
  const files: Record<string, { bytes: number; sha256: string }> = {}
  for (const name of filesUnder(folder)) files[name] = hashFile(join(folder, name), true)
  await writeContents(join(folder, MARKER), markerText({ version: 1, step, files }))
  syncFolder(folder)
}

/** Relative paths of all files under a folder, sorted; folders are synced on the way. */
function filesUnder(folder: string, prefix = ''): string[] {
  const names: string[] = []
  for (const entry of readdirSync(join(folder, prefix), { withFileTypes: true })) {
    const name = prefix === '' ? entry.name : `${prefix}/${entry.name}`
    if (entry.isDirectory()) names.push(...filesUnder(folder, name))
    else names.push(name)
  }
  if (prefix !== '') syncFolder(join(folder, prefix))
  return names.sort()
}

function hashFile(path: string, sync: boolean): { bytes: number; sha256: string } {
  const fd = openSync(path, 'r')
  try {
    if (sync) fsyncSync(fd)
    const hash = createHash('sha256')
    const bytes = fstatSync(fd).size
    const buffer = new Uint8Array(Math.min(bytes, 1 << 22))
    for (let from = 0; from < bytes; from += buffer.length) {
      const piece = buffer.subarray(0, Math.min(buffer.length, bytes - from))
      readExactly(fd, piece, from, path)
      hash.update(piece)
    }
    return { bytes, sha256: hash.digest('hex') }
  } finally {
    closeSync(fd)
  }
}

/** The marker as text. It carries a hash of itself, so that a flipped bit in it shows too. */
function markerText(marker: Marker): string {
  const digest = createHash('sha256').update(JSON.stringify(marker)).digest('hex')
  return `${JSON.stringify({ ...marker, digest }, null, 2)}\n`
}

/** @throws CheckpointError if the marker is absent or not exactly as it was written */
function readMarker(folder: string): Marker {
  const path = join(folder, MARKER)
  if (!existsSync(path)) throw new CheckpointError(`${folder}: there is no ${MARKER}, so it was never finished`)
  const { version, step, files } = readJsonObject(path)
  const marker = { version, step, files } as Marker
  if (version !== 1 || !isJsonObject(files) || markerText(marker) !== readFileSync(path, 'utf8')) {
    throw new CheckpointError(`${path}: its contents are not as they were written; the checkpoint is damaged`)
  }
  for (const name of Object.keys(files)) {
    if (name.startsWith('/') || name.split('/').includes('..')) {
      throw new CheckpointError(`${path}: ${JSON.stringify(name)} lies outside the checkpoint`)
    }
  }
  return marker
}

/**
 * Checks a checkpoint against its marker: every file there, of the right size and, unless `quick`, with the right
 * SHA-256. Files that the marker does not list (a note, say) are no fault.
 * @throws CheckpointError naming the first file that is wrong
 */
export function verifyCheckpoint(folder: string, options: { quick?: boolean } = {}): void {
  const { step, files } = readMarker(folder)
  const named = stepOf(basename(folder))
  if (named !== undefined && named !== step) {
    throw new CheckpointError(`${folder}: its ${MARKER} says step ${step}; the folder was renamed or copied wrongly`)
  }
  for (const [name, expected] of Object.entries(files)) {
    const path = join(folder, name)
    const bytes = statSync(path, { throwIfNoEntry: false })?.size
    if (bytes !== expected.bytes) {
      throw new CheckpointError(`${path}: expected ${expected.bytes} bytes, found ${bytes ?? 'no file'}`)
    }
    if (options.quick !== true && hashFile(path, false).sha256 !== expected.sha256) {
      throw new CheckpointError(`${path}: its SHA-256 is not the one in ${MARKER}; the file is damaged`)
    }
  }
}

function stepOf(name: string): number | undefined {
  const digits = /^step-(\d{1,15})$/.exec(name)?.[1]
  return digits === undefined ? undefined : Number(digits)
}

function problemOf(folder: string, quick: boolean): string | undefined {
  try {
    verifyCheckpoint(folder, { quick })
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}

/** Checkpoints of a run by step, lowest first, with what marker and file sizes tell about them (nothing is hashed). */
export function listCheckpoints(runDir: string): CheckpointInfo[] {
  const parent = checkpointsFolder(runDir)
  if (!existsSync(parent)) return []
  const found: CheckpointInfo[] = []
  for (const name of readdirSync(parent)) {
    const step = stepOf(name)
    if (step === undefined) continue
    const path = join(parent, name)
    const problem = problemOf(path, true)
    found.push({ step, path, ...(problem !== undefined && { problem }) })
  }
  return found.sort((a, b) => a.step - b.step)
}

export interface NewestCheckpoint {
  /** Absent if there is no complete checkpoint at all. */
  readonly checkpoint?: CheckpointInfo
  /** Newer ones that cannot be used, each with its problem: to be told to the user. */
  readonly skipped: readonly CheckpointInfo[]
}

/**
 * The newest checkpoint whose every file has the hash it was written with. Reads it whole.
 * @param below  only checkpoints of lower steps
 */
export function newestComplete(runDir: string, below = Number.POSITIVE_INFINITY): NewestCheckpoint {
  const skipped: CheckpointInfo[] = []
  for (const info of listCheckpoints(runDir).reverse()) {
    if (info.step >= below) continue
    const problem = info.problem ?? problemOf(info.path, false)
    if (problem === undefined) return { checkpoint: info, skipped }
    skipped.push({ ...info, problem })
  }
  return { skipped }
}

/**
 * Removes all but the newest `keepLast` usable checkpoints, and unusable ones older than the newest usable. The newest
 * is verified by its hashes first: whatever `keepLast` says, one that can be resumed from stays.
 * @returns the removed folders
 */
export async function pruneCheckpoints(runDir: string, keepLast: number): Promise<string[]> {
  const { checkpoint: newest } = newestComplete(runDir)
  if (newest === undefined) return []
  const older = listCheckpoints(runDir).filter(({ step }) => step < newest.step)
  const usable = older.filter(({ problem }) => problem === undefined)
  const kept = new Set(keepLast > 1 ? usable.slice(-(keepLast - 1)) : [])
  const removed = older.filter((info) => !kept.has(info))
  for (const { path } of removed) {
    // Renamed first: a crash while files go must not leave something that looks like a checkpoint.
    const doomed = temporarySibling(path, 'removed')
    renameSync(path, doomed)
    await remove(doomed)
  }
  return removed.map(({ path }) => path)
}

/**
 * Clears up after a crash: removes what was being written or removed, and puts a checkpoint back whose replacement
 * was not in place yet. Call it when a run starts, before `newestComplete`; never while another process writes here.
 * @returns the names that were dealt with
 */
export async function cleanTemporary(runDir: string): Promise<string[]> {
  const parent = checkpointsFolder(runDir)
  if (!existsSync(parent)) return []
  const cleaned: string[] = []
  for (const name of readdirSync(parent)) {
    const [, target, kind] = /^\.(step-\d+)\.(tmp|replaced|removed)-[0-9a-f]+$/.exec(name) ?? []
    if (target === undefined) continue
    cleaned.push(name)
    const path = join(parent, name)
    if (kind === 'replaced' && !existsSync(join(parent, target))) renameSync(path, join(parent, target))
    else await remove(path)
  }
  if (cleaned.length > 0) syncFolder(parent)
  return cleaned
}

async function remove(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true })
}
