// Reading safetensors files: the header is checked hard before anything is believed, and tensors are read from the
// file in pieces when asked for, never the whole file at once. Writing is in safetensors-writer.ts, folders with
// several shards in weights-folder.ts.
import { closeSync, fstatSync, openSync } from 'node:fs'
import type { HostArray } from '../core/dtype.ts'
import { CheckpointError } from '../core/errors.ts'
import { parseJson, shown } from '../core/json.ts'
import { sizeOf } from '../core/tensor.ts'
import { isJsonObject, readExactly } from './files.ts'
import { bfloatToFloat, halfToFloat } from './half.ts'

/** Element types of the format, lower case, and their bytes. The f8 ones can be copied but not converted. */
export const FILE_DTYPE_BYTES = {
  f64: 8,
  f32: 4,
  f16: 2,
  bf16: 2,
  i64: 8,
  i32: 4,
  i16: 2,
  i8: 1,
  u64: 8,
  u32: 4,
  u16: 2,
  u8: 1,
  bool: 1,
  f8_e4m3: 1,
  f8_e5m2: 1,
} as const

export type FileDtype = keyof typeof FILE_DTYPE_BYTES

/** Where a tensor lies in its file. */
export interface TensorEntry {
  readonly name: string
  readonly dtype: FileDtype
  readonly shape: readonly number[]
  /** First byte, from the start of the file. */
  readonly begin: number
  readonly bytes: number
}

/** The limit of the reference implementation: longer headers are attacks or accidents. */
const MAX_HEADER_BYTES = 100_000_000

/** Elements converted at a time: 4 MiB of float32. */
export const CHUNK_ELEMENTS = 1 << 20

/** Everything that the header says, checked: known types, sizes that fit shapes, no overlap, no gap, no rest. */
export interface SafetensorsHeader {
  readonly entries: ReadonlyMap<string, TensorEntry>
  readonly metadata: Readonly<Record<string, string>>
}

/**
 * Checks and parses a header.
 * @param json      the header's bytes (after the 8-byte length)
 * @param fileSize  bytes of the whole file
 * @throws CheckpointError naming the file and, where it is one tensor's fault, the tensor
 */
export function parseHeader(json: Uint8Array, fileSize: number, path: string): SafetensorsHeader {
  let header: unknown
  try {
    header = parseJson(new TextDecoder('utf-8', { fatal: true }).decode(json))
  } catch (cause) {
    throw new CheckpointError(`${path}: its safetensors header is not JSON in UTF-8; the file is damaged`, { cause })
  }
  if (!isJsonObject(header)) throw new CheckpointError(`${path}: its safetensors header is not a JSON object`)
  const dataStart = 8 + json.length
  const entries = new Map<string, TensorEntry>()
  let metadata: Record<string, string> = {}
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') metadata = checkMetadata(value, path)
    else entries.set(name, checkEntry(name, value, dataStart, fileSize, path))
  }
  checkLayout([...entries.values()], dataStart, fileSize, path)
  return { entries, metadata }
}

function checkMetadata(value: unknown, path: string): Record<string, string> {
  if (isJsonObject(value) && Object.values(value).every((text) => typeof text === 'string')) {
    return value as Record<string, string>
  }
  throw new CheckpointError(`${path}: __metadata__ of its safetensors header must map names to strings`)
}

function checkEntry(name: string, value: unknown, dataStart: number, fileSize: number, path: string): TensorEntry {
  const fail = (what: string): never => {
    throw new CheckpointError(`${path}: tensor ${printable(name)}: ${what}`)
  }
  if (!isJsonObject(value)) return fail('its header entry must be an object with dtype, shape and data_offsets')
  const { dtype: written, shape, data_offsets: offsets } = value
  const dtype = typeof written === 'string' ? (written.toLowerCase() as FileDtype) : undefined
  if (dtype === undefined || !Object.hasOwn(FILE_DTYPE_BYTES, dtype) || written !== dtype.toUpperCase()) {
    const known = Object.keys(FILE_DTYPE_BYTES).join(', ').toUpperCase()
    return fail(
      `unknown dtype ${typeof written === 'string' ? printable(written) : shown(written)}, expected one of ${known}`,
    )
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    return fail(`shape must be an array of whole numbers from 0, got ${shown(shape)}`)
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    return fail(`data_offsets must be two whole numbers from 0, got ${shown(offsets)}`)
  }
  const [from, to] = offsets as [number, number]
  if (from > to || to > fileSize - dataStart) {
    return fail(
      `data_offsets [${from}, ${to}] reach outside the ${fileSize - dataStart} data bytes; the file is cut off or damaged`,
    )
  }
  const needed = sizeOf(shape as number[]) * FILE_DTYPE_BYTES[dtype]
  if (needed !== to - from) {
    return fail(`shape ${shown(shape)} of ${dtype} needs ${needed} bytes, its data_offsets span ${to - from}`)
  }
  return { name, dtype, shape: shape as number[], begin: dataStart + from, bytes: to - from }
}

/** The data must be covered by tensors from end to end, each byte once, as the reference implementation demands. */
function checkLayout(entries: TensorEntry[], dataStart: number, fileSize: number, path: string): void {
  entries.sort((a, b) => a.begin - b.begin || a.bytes - b.bytes)
  let end = dataStart
  for (const entry of entries) {
    if (entry.begin !== end) {
      const fault = entry.begin < end ? 'overlaps the tensor before it' : `leaves ${entry.begin - end} unused bytes`
      throw new CheckpointError(`${path}: tensor ${printable(entry.name)}: its data ${fault}; the file is damaged`)
    }
    end += entry.bytes
  }
  if (end !== fileSize) {
    throw new CheckpointError(`${path}: ${fileSize - end} bytes follow the last tensor; the file is damaged`)
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

/** Names come from the file: cut and escaped before they enter a message. */
function printable(text: string | undefined): string {
  const escaped = JSON.stringify(text ?? 'nothing').slice(1, -1)
  return escaped.length > 120 ? `${escaped.slice(0, 120)}...` : escaped
}

/** An open safetensors file. Close it when done; tensors are read on demand. */
export class SafetensorsFile {
  readonly path: string
  readonly entries: ReadonlyMap<string, TensorEntry>
  readonly metadata: Readonly<Record<string, string>>
  #fd: number | undefined

  /** @throws CheckpointError if the file is absent or its header does not hold */
  constructor(path: string) {
    this.path = path
    try {
      this.#fd = openSync(path, 'r')
    } catch (cause) {
      throw new CheckpointError(`${path}: cannot be opened (${(cause as NodeJS.ErrnoException).code})`, { cause })
    }
    try {
      const header = readHeader(this.#fd, path)
      this.entries = header.entries
      this.metadata = header.metadata
    } catch (error) {
      this.close()
      throw error
    }
  }

  /** @throws CheckpointError if there is no such tensor */
  entry(name: string): TensorEntry {
    const entry = this.entries.get(name)
    if (entry === undefined) throw new CheckpointError(`${this.path}: there is no tensor ${printable(name)}`)
    return entry
  }

  /** Bytes [from, from + count) of a tensor as they are in the file (little-endian). */
  readBytes(name: string, from = 0, count = this.entry(name).bytes - from): Uint8Array<ArrayBuffer> {
    const entry = this.entry(name)
    if (from < 0 || count < 0 || from + count > entry.bytes) {
      throw new CheckpointError(`${this.path}: tensor ${name}: bytes [${from}, ${from + count}) of ${entry.bytes}`)
    }
    if (this.#fd === undefined) throw new CheckpointError(`${this.path}: the file is closed already`)
    const bytes = new Uint8Array(count)
    readExactly(this.#fd, bytes, entry.begin + from, this.path)
    return bytes
  }

  /**
   * Elements [from, from + count) as numbers. f64 stays float64; all other types become float32: f16 and bf16 exactly,
   * integers rounded to nearest where they exceed 2^24.
   * @throws CheckpointError for f8 types, which need their scales to mean anything
   */
  readNumbers(name: string, from = 0, count?: number): Float64Array<ArrayBuffer> | Float32Array<ArrayBuffer> {
    const { dtype, shape } = this.entry(name)
    const length = count ?? sizeOf(shape) - from
    const width = FILE_DTYPE_BYTES[dtype]
    const bytes = this.readBytes(name, from * width, length * width)
    return decode(bytes, dtype, () => `${this.path}: tensor ${printable(name)}`)
  }

  /** Elements [from, from + count) as float32; f64 rounds to nearest. */
  readFloats(name: string, from = 0, count?: number): Float32Array<ArrayBuffer> {
    const numbers = this.readNumbers(name, from, count)
    return numbers instanceof Float32Array ? numbers : Float32Array.from(numbers)
  }

  /** The elements of a tensor in order, at most `chunkElements` at a time. */
  *chunks(name: string, chunkElements = CHUNK_ELEMENTS): Generator<HostArray> {
    const size = sizeOf(this.entry(name).shape)
    for (let from = 0; from < size; from += chunkElements) {
      yield this.readNumbers(name, from, Math.min(chunkElements, size - from))
    }
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd)
    this.#fd = undefined
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

function readHeader(fd: number, path: string): SafetensorsHeader {
  const stat = fstatSync(fd)
  if (!stat.isFile()) throw new CheckpointError(`${path}: expected a safetensors file, got something that is no file`)
  const fileSize = stat.size
  if (fileSize < 8) throw new CheckpointError(`${path}: ${fileSize} bytes are too few for a safetensors file`)
  const prefix = new Uint8Array(8)
  readExactly(fd, prefix, 0, path)
  const length = new DataView(prefix.buffer).getBigUint64(0, true)
  if (length > BigInt(Math.min(MAX_HEADER_BYTES, fileSize - 8))) {
    throw new CheckpointError(
      `${path}: its first 8 bytes announce a header of ${length} bytes in a file of ${fileSize}; it is cut off, or no safetensors file`,
    )
  }
  const json = new Uint8Array(Number(length))
  readExactly(fd, json, 8, path)
  return parseHeader(json, fileSize, path)
}

/** Little-endian file bytes as numbers (every machine that Node runs on here is little-endian). */
function decode(
  bytes: Uint8Array<ArrayBuffer>,
  dtype: FileDtype,
  who: () => string,
): Float64Array<ArrayBuffer> | Float32Array<ArrayBuffer> {
  const { buffer } = bytes
  const count = bytes.length / FILE_DTYPE_BYTES[dtype]
  switch (dtype) {
    case 'f64':
      return new Float64Array(buffer)
    case 'f32':
      return new Float32Array(buffer)
    case 'f16':
    case 'bf16': {
      const out = new Float32Array(count)
      if (dtype === 'f16') halfToFloat(out, new Uint16Array(buffer))
      else bfloatToFloat(out, new Uint16Array(buffer))
      return out
    }
    case 'i64':
      return Float32Array.from(new BigInt64Array(buffer), bigToFloat)
    case 'u64':
      return Float32Array.from(new BigUint64Array(buffer), bigToFloat)
    case 'i32':
      return Float32Array.from(new Int32Array(buffer))
    case 'u32':
      return Float32Array.from(new Uint32Array(buffer))
    case 'i16':
      return Float32Array.from(new Int16Array(buffer))
    case 'u16':
      return Float32Array.from(new Uint16Array(buffer))
    case 'i8':
      return Float32Array.from(new Int8Array(buffer))
    case 'u8':
    case 'bool':
      return Float32Array.from(bytes)
    case 'f8_e4m3':
    case 'f8_e5m2':
      throw new CheckpointError(`${who()} is ${dtype}, which cannot be read as numbers without its scales`)
  }
}

/** Double rounding (64-bit integer to float64 to float32) can be one float32 ulp off nearest; nothing here needs it. */
function bigToFloat(value: bigint): number {
  return Number(value)
}
