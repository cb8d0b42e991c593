// A reader of gzip-compressed tar archives as npm makes them: regular files, ustar prefixes, pax paths and GNU long
// names. Links, devices and sparse files are left out; it writes nothing to disk.
import { gunzipSync } from 'node:zlib'
import { DataError } from '../core/errors.ts'

export interface TarFile {
  readonly name: string
  readonly bytes: Buffer
}

const BLOCK = 512

/**
 * The regular files of a .tgz held in memory. `label` names it in messages.
 * @throws DataError if the compression, a header or the length is damaged
 */
export function readTarball(tarball: Uint8Array, label: string): TarFile[] {
  let archive: Buffer
  try {
    archive = gunzipSync(tarball)
  } catch (cause) {
    throw new DataError(`data: ${label} expected a gzip-compressed tar archive; it is damaged, fetch it again`, {
      cause,
    })
  }
  const files: TarFile[] = []
  let longName: string | undefined
  for (let at = 0; at + BLOCK <= archive.length; ) {
    const header = archive.subarray(at, at + BLOCK)
    if (header.every((byte) => byte === 0)) break
    checkHeader(header, label, at)
    const size = octal(header, 124, 12)
    const bytes = archive.subarray(at + BLOCK, at + BLOCK + size)
    if (bytes.length !== size) {
      throw new DataError(
        `data: ${label} expected ${size} bytes at offset ${at + BLOCK}, got ${bytes.length}; it is cut off`,
      )
    }
    const type = String.fromCharCode(header[156]!)
    if (type === 'x') longName = paxPath(bytes) ?? longName
    else if (type === 'L') longName = text(bytes, 0, bytes.length)
    else {
      if (type === '0' || type === '\0') files.push({ name: longName ?? headerName(header), bytes })
      longName = undefined
    }
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK
  }
  return files
}

/** The header's bytes sum to its checksum field, that field itself taken as spaces. */
function checkHeader(header: Buffer, label: string, at: number): void {
  let sum = 8 * 0x20
  for (let k = 0; k < BLOCK; k++) if (k < 148 || k >= 156) sum += header[k]!
  if (sum !== octal(header, 148, 8)) {
    throw new DataError(`data: ${label} has a damaged tar header at offset ${at}; fetch it again`)
  }
}

function headerName(header: Buffer): string {
  const name = text(header, 0, 100)
  const prefix = text(header, 257, 5) === 'ustar' ? text(header, 345, 155) : ''
  return prefix === '' ? name : `${prefix}/${name}`
}

function text(bytes: Buffer, start: number, length: number): string {
  const field = bytes.subarray(start, start + length)
  const end = field.indexOf(0)
  return field.toString('utf8', 0, end < 0 ? length : end)
}

function octal(header: Buffer, start: number, length: number): number {
  return Number.parseInt(text(header, start, length).trim() || '0', 8)
}

/** The path of a pax header: records `<length> <key>=<value>\n`, where length counts the whole record's bytes. */
function paxPath(bytes: Buffer): string | undefined {
  let path: string | undefined
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(0x20, at)
    const length = Number.parseInt(bytes.toString('latin1', at, space), 10)
    if (space < 0 || !(length > 0)) break
    const record = bytes.toString('utf8', space + 1, at + length - 1)
    if (record.startsWith('path=')) path = record.slice('path='.length)
    at += length
  }
  return path
}
