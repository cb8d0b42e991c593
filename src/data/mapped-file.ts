// A read-only view of a whole file, memory-mapped through libc where that works, else read into memory. Mappings live
// until the process ends: a touch of an unmapped view would crash it, and clean pages cost nothing.
import { closeSync, fstatSync, openSync, readSync, type Stats, statSync } from 'node:fs'
import { endianness } from 'node:os'
import koffi from 'koffi'
import { DataError } from '../core/errors.ts'

export interface MappedFile {
  /** The file's bytes. Never write to them: the pages are read-only and the process would be killed. */
  readonly buffer: ArrayBuffer
  /** False where mapping was not possible and the file was read into memory instead. */
  readonly isMapped: boolean
  /**
   * To be called before bytes are touched that may be mapped: the system kills a process that touches a mapping beyond
   * the end of its file. About 1.5 microseconds; what is cut off between this call and the touch is not caught.
   * @throws DataError if the file has been shortened since it was opened
   */
  checkWhole(): void
}

const PROT_READ = 1
const MAP_SHARED = 1
const MAX_READ_BYTES = 2 ** 30

type Mmap = (address: number, length: number, protection: number, flags: number, fd: number, offset: number) => number

let mmap: Mmap | undefined | 'untried' = 'untried'

/** libc's mmap from the running program itself, which every Node on Linux and macOS is linked with. */
function findMmap(): Mmap | undefined {
  if (mmap !== 'untried') return mmap
  mmap = undefined
  if (process.platform === 'win32') return undefined
  try {
    mmap = koffi
      .load(null)
      .func('mmap', 'intptr_t', ['uintptr_t', 'size_t', 'int', 'int', 'int', 'int64_t']) as unknown as Mmap
  } catch {
    // Reported to the caller as isMapped: false.
  }
  return mmap
}

/**
 * Maps `path`. The file must not be shortened while it is in use (see `checkWhole`); replacing it by a rename is fine,
 * as the mapping keeps the old file.
 * @param useMmap  false: always read into memory
 * @throws DataError if the file cannot be read
 */
export function mapFile(path: string, useMmap = true): MappedFile {
  if (endianness() !== 'LE') {
    throw new DataError('data: token shards are little-endian and are read in place, but this machine is big-endian')
  }
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch (cause) {
    throw new DataError(`data: expected a readable file at ${path}, but it cannot be opened; prepare again`, { cause })
  }
  try {
    const stats = fstatSync(fd)
    if (!stats.isFile()) throw new DataError(`data: expected a file at ${path}, but it is none; prepare again`)
    const length = stats.size
    const inMemory = (buffer: ArrayBuffer): MappedFile => ({ buffer, isMapped: false, checkWhole: () => {} })
    if (length === 0) return inMemory(new ArrayBuffer(0))
    const map = useMmap ? findMmap() : undefined
    const address = map === undefined ? -1 : map(0, length, PROT_READ, MAP_SHARED, fd, 0)
    if (address === -1) return inMemory(readWhole(fd, length, path))
    return { buffer: koffi.view(address, length), isMapped: true, checkWhole: () => checkWhole(path, stats) }
  } finally {
    closeSync(fd) // a mapping outlives its file descriptor
  }
}

/** A file that is gone or another one by now is no harm: the mapping keeps the old one. */
function checkWhole(path: string, { dev, ino, size }: Stats): void {
  const now = statSync(path, { throwIfNoEntry: false })
  if (now === undefined || now.ino !== ino || now.dev !== dev || now.size >= size) return
  throw new DataError(
    `data: ${path} had ${size} bytes when it was opened and has ${now.size} now; it was cut off while in use, run data prepare again`,
  )
}

function readWhole(fd: number, length: number, path: string): ArrayBuffer {
  const buffer = new ArrayBuffer(length)
  let done = 0
  while (done < length) {
    const bytes = new Uint8Array(buffer, done, Math.min(length - done, MAX_READ_BYTES))
    const got = readSync(fd, bytes, 0, bytes.length, done)
    if (got === 0) throw new DataError(`data: ${path} ended at byte ${done} of ${length} while it was read; try again`)
    done += got
  }
  return buffer
}
