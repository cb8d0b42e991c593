// Writing safetensors files in a stream: the header first, then each tensor in pieces, so that a model never has to
// be in host memory at once. Atomic: the file appears under its name only when complete. Reading is in safetensors.ts.
import type { Dtype, HostArray } from '../core/dtype.ts'
import { CheckpointError } from '../core/errors.ts'
import { show, sizeOf } from '../core/tensor.ts'
import { writeAll, writeFileAtomic } from './files.ts'
import { floatToBfloat, floatToHalf } from './half.ts'
import { FILE_DTYPE_BYTES } from './safetensors.ts'

/** A tensor to be written. `chunks` gives all its elements in row-major order, in pieces of any size. */
export interface TensorSource {
  readonly name: string
  /** Element type in the file; values of other types are converted to it (bf16 and f16 to nearest even). */
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** 16-bit words (Uint16Array) are raw bits and need a dtype of bf16 or f16. Called once. */
  chunks(): Iterable<HostArray> | AsyncIterable<HostArray>
}

/** A source whose values are in memory already. */
export function tensorSource(name: string, dtype: Dtype, shape: readonly number[], values: HostArray): TensorSource {
  return { name, dtype, shape, chunks: () => [values] }
}

/** Bytes that a tensor takes in a file. */
export function sourceBytes(source: { dtype: Dtype; shape: readonly number[] }): number {
  return sizeOf(source.shape) * FILE_DTYPE_BYTES[source.dtype]
}

/**
 * Writes one file. Tensors are ordered by element width, then name, so that each starts on a multiple of its width;
 * the header is padded with spaces to a multiple of 8. The metadata `format: pt` is what transformers asks for.
 * @throws CheckpointError if a name comes twice or a source gives another number of elements than its shape has
 */
export async function writeSafetensors(
  path: string,
  sources: readonly TensorSource[],
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): Promise<void> {
  const sorted = [...sources].sort(
    (a, b) => FILE_DTYPE_BYTES[b.dtype] - FILE_DTYPE_BYTES[a.dtype] || compare(a.name, b.name),
  )
  const header = headerBytes(sorted, metadata, path)
  await writeFileAtomic(path, async (fd) => {
    writeAll(fd, header)
    for (const source of sorted) await writeTensor(fd, source, path)
  })
}

/** Order of UTF-16 code units: the same on every machine, whatever its locale. */
function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function headerBytes(sorted: readonly TensorSource[], metadata: Readonly<Record<string, string>>, path: string) {
  const entries = new Map<string, unknown>([['__metadata__', metadata]])
  let offset = 0
  for (const source of sorted) {
    if (entries.has(source.name)) {
      throw new CheckpointError(`${path}: tensor ${source.name} would be written twice; names must differ`)
    }
    const end = offset + sourceBytes(source)
    entries.set(source.name, { dtype: source.dtype.toUpperCase(), shape: source.shape, data_offsets: [offset, end] })
    offset = end
  }
  // Joined by hand: an object literal would reorder names that look like numbers.
  const fields = [...entries].map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`)
  const json = new TextEncoder().encode(`{${fields.join(',')}}`)
  const padded = Math.ceil(json.length / 8) * 8
  const bytes = new Uint8Array(8 + padded).fill(0x20)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true)
  bytes.set(json, 8)
  return bytes
}

async function writeTensor(fd: number, source: TensorSource, path: string): Promise<void> {
  const size = sizeOf(source.shape)
  let count = 0
  for await (const chunk of source.chunks()) {
    count += chunk.length
    if (count > size) break
    writeAll(fd, encode(chunk, source, path))
  }
  if (count !== size) {
    throw new CheckpointError(
      `${path}: tensor ${source.name}: shape ${show(source.shape)} needs ${size} elements, its source gave ${count > size ? 'more' : count}`,
    )
  }
}

function encode(values: HostArray, { dtype, name }: TensorSource, path: string): Uint8Array {
  if (values instanceof Uint16Array && dtype !== 'bf16' && dtype !== 'f16') {
    throw new CheckpointError(`${path}: tensor ${name}: raw 16-bit words cannot be written as ${dtype}`)
  }
  const converted = convertValues(values, dtype)
  return new Uint8Array(converted.buffer, converted.byteOffset, converted.byteLength)
}

/** Values as `dtype`: floats to nearest even, 16-bit ones as raw words; words that are raw already stay as they are. */
export function convertValues(values: HostArray, dtype: Dtype): HostArray {
  switch (dtype) {
    case 'f64':
      return values instanceof Float64Array ? values : Float64Array.from(values)
    case 'f32':
      return values instanceof Float32Array ? values : Float32Array.from(values)
    case 'bf16':
      return values instanceof Uint16Array ? values : floatToBfloat(values)
    case 'f16':
      return values instanceof Uint16Array ? values : floatToHalf(values)
    case 'i32':
      return values instanceof Int32Array ? values : Int32Array.from(values)
    case 'u8':
      return values instanceof Uint8Array ? values : Uint8Array.from(values)
  }
}
