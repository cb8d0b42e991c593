// Checkpoint folders of a run: `<run>/checkpoints/step-N/`. Each is written into a hidden sibling, synced, hashed into
// `complete.json` and only then renamed, so that a crash at any moment leaves the older ones whole. What is inside a
// checkpoint is not known here, only how good it is held to be; see run-checkpoint.ts.
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
import { shown } from '../core/json.ts'
import { isJsonObject, readExactly, readJsonObject, syncFolder, temporarySibling, writeContents } from './files.ts'

/** Written last; a checkpoint without it is not complete. */
export const MARKER = 'complete.json'

/** How well the model of a checkpoint did on held-out text when it was written. */
export interface HeldOutLoss {
  /** Nats per token, finite. */
  readonly loss: number
  /** Over so many tokens: losses over other text are not compared. */
  readonly tokens: number
}

/** Which checkpoints stay when a new one is there; see `pruneCheckpoints`. */
export interface Keep {
  readonly keepLast: number
  /** Default 0. */
  readonly keepBest?: number
}

export interface CheckpointInfo {
  readonly step: number
  readonly path: string
  /** Absent if it was written without an evaluation, or cannot be used. */
  readonly heldOut?: HeldOutLoss
  /** Why it cannot be used, as far as the marker and the sizes of the files tell; absent if nothing is wrong. */
  readonly problem?: string
}

interface Marker {
  readonly version: 1
  readonly step: number
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>
  readonly heldOut?: HeldOutLoss
}

/** `<run>/checkpoints`. */
export function checkpointsFolder(runDir: string): string {
  return join(runDir, 'checkpoints')
}

/**
 * Writes the checkpoint of a step: `write` puts files into the (temporary) folder it is given. When this returns, the
 * checkpoint survives a power cut; if it throws or the process dies, there is none and older ones are untouched.
 * A checkpoint of the same step is replaced. Then older ones are removed as `keep` says, where that is given.
 * @param options.heldOut  noted in the marker: what `keepBest` and `bestComplete` go by
 * @returns the folder `<run>/checkpoints/step-N`
 */
export async function writeCheckpoint(
  runDir: string,
  step: number,
  write: (folder: string) => Promise<void>,
  options: { keep?: Keep | undefined; heldOut?: HeldOutLoss | undefined } = {},
): Promise<string> {
  const parent = checkpointsFolder(runDir)
  const target = join(parent, `step-${step}`)
  mkdirSync(parent, { recursive: true })
  syncFolder(runDir)
  const temporary = temporarySibling(target)
  try {
    mkdirSync(temporary)
    await write(temporary)
    await seal(temporary, step, options.heldOut)
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
  if (options.keep !== undefined) await pruneCheckpoints(runDir, options.keep)
  return target
}

/** Syncs and hashes every file of a folder, then writes its marker. */
async function seal(folder: string, step: number, heldOut: HeldOutLoss | undefined): Promise<void> {
  const files: Record<string, { bytes: number; sha256: string }> = {}
  for (const name of filesUnder(folder)) files[name] = hashFile(join(folder, name), true)
  await writeContents(join(folder, MARKER), markerText({ version: 1, step, files, ...(heldOut && { heldOut }) }))
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

const HASHED_AT_ONCE = 1 << 20
/** One for all files: a new one each time stays in memory until the garbage collector looks. */
let hashBuffer: Uint8Array | undefined

function hashFile(path: string, sync: boolean): { bytes: number; sha256: string } {
  const fd = openSync(path, 'r')
  try {
    if (sync) fsyncSync(fd)
    const hash = createHash('sha256')
    const bytes = fstatSync(fd).size
    hashBuffer ??= new Uint8Array(HASHED_AT_ONCE)
    for (let from = 0; from < bytes; from += HASHED_AT_ONCE) {
      const piece = hashBuffer.subarray(0, Math.min(HASHED_AT_ONCE, bytes - from))
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
  const { version, step, files, heldOut } = readJsonObject(path)
  const marker = { version, step, files, ...(heldOut !== undefined && { heldOut }) } as Marker
  if (version !== 1 || !isJsonObject(files) || markerText(marker) !== readFileSync(path, 'utf8')) {
    throw new CheckpointError(`${path}: its contents are not as they were written; the checkpoint is damaged`)
  }
  const fault = faultOfMarker(marker)
  if (fault !== undefined) throw new CheckpointError(`${path}: ${fault}; the checkpoint is damaged`)
  return marker
}

/** What is wrong with a marker whose digest agrees: its types are only a promise until here. */
function faultOfMarker({ step, files, heldOut }: Marker): string | undefined {
  if (!isCount(step)) return `step must be a whole number that is not negative, got ${shown(step)}`
  for (const [name, entry] of Object.entries(files)) {
    if (name.startsWith('/') || name.split('/').includes('..')) return `${shown(name)} lies outside the checkpoint`
    if (name === '' || name.includes('\0')) return `${shown(name)} is no name of a file`
    if (!isJsonObject(entry) || !isCount(entry.bytes) || !isSha256(entry.sha256)) {
      return `files[${shown(name)}] must be {"bytes": ..., "sha256": 64 hex digits}, got ${shown(entry)}`
    }
  }
  if (heldOut === undefined) return undefined
  if (!isJsonObject(heldOut) || !Number.isFinite(heldOut.loss) || !isCount(heldOut.tokens)) {
    return `heldOut must be {"loss": a number, "tokens": how many}, got ${shown(heldOut)}`
  }
  return undefined
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function isSha256(value: unknown): boolean {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value)
}

/**
 * Checks a checkpoint against its marker: every file there, of the right size and, unless `quick`, with the right
 * SHA-256. Files that the marker does not list (a note, say) are no fault.
 * @throws CheckpointError naming the first file that is wrong
 */
export function verifyCheckpoint(folder: string, options: { quick?: boolean } = {}): void {
  checkFiles(folder, readMarker(folder), options.quick === true)
}

function checkFiles(folder: string, { step, files }: Marker, isQuick: boolean): void {
  const named = stepOf(basename(folder))
  if (named !== undefined && named !== step) {
    throw new CheckpointError(`${folder}: its ${MARKER} says step ${step}; the folder was renamed or copied wrongly`)
  }
  for (const [name, expected] of Object.entries(files)) {
    const path = join(folder, name)
    const found = attempt(path, () => statSync(path, { throwIfNoEntry: false }))
    if (found?.isFile() !== true || found.size !== expected.bytes) {
      const what = found === undefined ? 'no file' : found.isFile() ? found.size : 'something that is no file'
      throw new CheckpointError(`${path}: expected ${expected.bytes} bytes, found ${what}`)
    }
    if (!isQuick && attempt(path, () => hashFile(path, false)).sha256 !== expected.sha256) {
      throw new CheckpointError(`${path}: its SHA-256 is not the one in ${MARKER}; the file is damaged`)
    }
  }
}

/** What the system refuses (no permission, a name that is too long, a failing disk) is said about the file. */
function attempt<T>(path: string, act: () => T): T {
  try {
    return act()
  } catch (error) {
    if (error instanceof CheckpointError) throw error
    throw new CheckpointError(`${path}: it cannot be read (${(error as Error).message})`, { cause: error })
  }
}

function stepOf(name: string): number | undefined {
  const digits = /^step-(\d{1,15})$/.exec(name)?.[1]
  return digits === undefined ? undefined : Number(digits)
}

function problemOf(folder: string): string | undefined {
  try {
    verifyCheckpoint(folder)
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}

/** What marker and file sizes tell. */
function look(step: number, path: string): CheckpointInfo {
  try {
    const marker = readMarker(path)
    checkFiles(path, marker, true)
    return { step, path, ...(marker.heldOut && { heldOut: marker.heldOut }) }
  } catch (error) {
    return { step, path, problem: (error as Error).message }
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
    found.push(look(step, join(parent, name)))
  }
  return found.sort((a, b) => a.step - b.step)
}

export interface FoundCheckpoint {
  /** Absent if there is no such checkpoint that is complete. */
  readonly checkpoint?: CheckpointInfo
  /** Those that would have come first but cannot be used, each with its problem: to be told to the user. */
  readonly skipped: readonly CheckpointInfo[]
}

/** The first whose every file has the hash it was written with. */
function firstComplete(candidates: readonly CheckpointInfo[]): FoundCheckpoint {
  const skipped: CheckpointInfo[] = []
  for (const info of candidates) {
    const problem = info.problem ?? problemOf(info.path)
    if (problem === undefined) return { checkpoint: info, skipped }
    skipped.push({ ...info, problem })
  }
  return { skipped }
}

/**
 * The newest checkpoint whose every file has the hash it was written with. Reads it whole.
 * @param below  only checkpoints of lower steps
 */
export function newestComplete(runDir: string, below = Number.POSITIVE_INFINITY): FoundCheckpoint {
  return firstComplete(
    listCheckpoints(runDir)
      .reverse()
      .filter(({ step }) => step < below),
  )
}

/** The same for the lowest held-out loss; see `byHeldOutLoss`. */
export function bestComplete(runDir: string): FoundCheckpoint {
  return firstComplete(byHeldOutLoss(listCheckpoints(runDir)))
}

/**
 * Usable checkpoints that were evaluated, the lowest held-out loss first and the earlier one of two that are equal. Where
 * the text of evaluations has changed, only those count that were evaluated on as many tokens as the last one.
 * @param checkpoints  lowest step first
 */
export function byHeldOutLoss(checkpoints: readonly CheckpointInfo[]): CheckpointInfo[] {
  const tokens = checkpoints.findLast(({ heldOut }) => heldOut !== undefined)?.heldOut?.tokens
  return checkpoints
    .filter(({ heldOut }) => heldOut !== undefined && heldOut.tokens === tokens)
    .sort((a, b) => a.heldOut!.loss - b.heldOut!.loss || a.step - b.step)
}

/**
 * Removes all but the newest `keepLast` usable checkpoints and the `keepBest` usable ones of the lowest held-out loss,
 * and unusable ones older than the newest usable. The newest is verified by its hashes first, and so are the best before
 * another one that was evaluated goes: whatever the numbers say, what can be resumed from stays.
 * @returns the removed folders
 */
export async function pruneCheckpoints(runDir: string, { keepLast, keepBest = 0 }: Keep): Promise<string[]> {
  const { checkpoint: newest } = newestComplete(runDir)
  if (newest === undefined) return []
  const found = listCheckpoints(runDir)
  const older = found.filter(({ step }) => step < newest.step)
  const usable = older.filter(({ problem }) => problem === undefined)
  const kept = new Set(keepLast > 1 ? usable.slice(-(keepLast - 1)) : [])
  for (const info of found) if (info.step >= newest.step) kept.add(info)
  for (const info of wholeBest(found, keepBest, kept)) kept.add(info)
  const removed = older.filter((info) => !kept.has(info))
  for (const { path } of removed) {
    // Renamed first: a crash while files go must not leave something that looks like a checkpoint.
    const doomed = temporarySibling(path, 'removed')
    renameSync(path, doomed)
    await remove(doomed)
  }
  return removed.map(({ path }) => path)
}

/** The `count` best. They are read whole only where one that was evaluated would go: else nothing can be lost. */
function wholeBest(found: readonly CheckpointInfo[], count: number, kept: ReadonlySet<CheckpointInfo>) {
  if (count === 0) return []
  const ranked = byHeldOutLoss(found)
  const stays = (info: CheckpointInfo, rank: number): boolean => rank < count || kept.has(info)
  if (ranked.every(stays)) return ranked.slice(0, count)
  const best: CheckpointInfo[] = []
  for (const info of ranked) {
    if (best.length === count) break
    if (problemOf(info.path) === undefined) best.push(info)
  }
  return best
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
