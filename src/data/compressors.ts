// General-purpose compressors as a yardstick for a language model: bits per byte of the same text. gzip and brotli
// come with Node; bzip2 and xz run as commands where they are installed, else figures measured before stand in, only
// for the very text they were measured on.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { promisify } from 'node:util'
import { brotliCompress, constants, gzip } from 'node:zlib'
import { COMMITTED_FIGURES } from './compressor-figures.ts'

export interface CompressorResult {
  readonly name: string
  readonly compressedBytes: number
  /** 8 compressedBytes / bytes of the text. */
  readonly bitsPerByte: number
  /** `committed`: measured before on this same text, and written in the source. */
  readonly origin: 'measured' | 'committed'
}

export interface CompressorOptions {
  /**
   * The training text, for xz primed with it: bytes of xz(train + newline + text) less bytes of xz(train + newline).
   * Two runs over all of it (some seconds per 10 MB), left out where the committed figure is for these texts.
   */
  readonly trainText?: string | undefined
  /** Names to leave out, as in the results. */
  readonly skip?: readonly string[] | undefined
}

const BROTLI_LARGE_WINDOW_BITS = 30

/**
 * Compresses `text` with gzip -9, brotli (quality 11, large window), bzip2 -9, xz -9 and, given `trainText`, xz -9
 * primed with it. A compressor that is neither installed nor in the committed figures is left out.
 */
export async function compressionBaselines(text: string, options: CompressorOptions = {}): Promise<CompressorResult[]> {
  const bytes = Buffer.from(text)
  const committed = committedFor(bytes)
  const results: CompressorResult[] = []
  const add = async (name: string, measure: () => Promise<number | undefined>): Promise<void> => {
    if (options.skip?.includes(name)) return
    const measured = await measure()
    const compressedBytes = measured ?? committed?.[name]
    if (compressedBytes === undefined) return
    const origin = measured === undefined ? 'committed' : 'measured'
    results.push({ name, compressedBytes, bitsPerByte: (8 * compressedBytes) / bytes.length, origin })
  }
  await add('gzip -9', async () => (await promisify(gzip)(bytes, { level: 9 })).length)
  await add('brotli', async () => (await promisify(brotliCompress)(bytes, brotliOptions(bytes.length))).length)
  await add('bzip2 -9', () => compressedByCommand('bzip2', ['-9', '-c'], [bytes]))
  await add('xz -9', () => compressedByCommand('xz', ['-9', '-c'], [bytes]))
  const { trainText } = options
  if (trainText !== undefined) {
    const prime = Buffer.from(`${trainText}\n`)
    const isCommitted = COMMITTED_FIGURES.primedWithSha256 === sha256(prime)
    await add(PRIMED_XZ, async () => {
      if (isCommitted && committed?.[PRIMED_XZ] !== undefined) return undefined
      const alone = await compressedByCommand('xz', ['-9', '-c'], [prime])
      const both = await compressedByCommand('xz', ['-9', '-c'], [prime, bytes])
      return alone === undefined || both === undefined ? undefined : both - alone
    })
  }
  return results
}

/** Name of the primed result. */
export const PRIMED_XZ = 'xz -9 primed with the training text'

function committedFor(bytes: Buffer): Readonly<Record<string, number>> | undefined {
  return COMMITTED_FIGURES.textSha256 === sha256(bytes) ? COMMITTED_FIGURES.compressedBytes : undefined
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function brotliOptions(length: number): { params: Record<number, number | boolean> } {
  return {
    params: {
      [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY,
      [constants.BROTLI_PARAM_MODE]: constants.BROTLI_MODE_TEXT,
      [constants.BROTLI_PARAM_LARGE_WINDOW]: true,
      [constants.BROTLI_PARAM_LGWIN]: BROTLI_LARGE_WINDOW_BITS,
      [constants.BROTLI_PARAM_SIZE_HINT]: length,
    },
  }
}

/** Bytes that `command` writes for the parts on its standard input, or undefined where it is missing or fails. */
async function compressedByCommand(
  command: string,
  args: readonly string[],
  parts: readonly Buffer[],
): Promise<number | undefined> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'ignore'] })
    let bytes = 0
    child.stdout.on('data', (chunk: Buffer) => {
      bytes += chunk.length
    })
    child.once('error', () => resolve(undefined))
    child.once('close', (code) => resolve(code === 0 ? bytes : undefined))
    child.stdin.on('error', () => {}) // the command's own end tells
    for (const part of parts) child.stdin.write(part)
    child.stdin.end()
  })
}
