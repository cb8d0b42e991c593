// The kernel library through koffi. Addresses and sizes travel as plain numbers (9 ns an argument); a kernel is looked
// up by name and instruction set. Knows no kernel by name: the launchers do.
import koffi from 'koffi'
import { DeviceError } from '../../core/errors.ts'

/** Instruction sets that kernels are compiled for, narrowest first (native/isa.h). `base` is SSE2 or NEON. */
export const ISAS = ['base', 'avx2', 'avx512'] as const
export type Isa = (typeof ISAS)[number]

/** A native function: numbers in, nothing out. */
export type NativeFunction = (...args: number[]) => void

const TYPES: Record<string, string> = { p: 'int64_t', l: 'int64_t', i: 'int32_t', u: 'uint32_t', d: 'double' }

/** What ty_isa() of native/context.cc answers, without its bf16 flag. */
const ISA_BY_NUMBER: Record<number, Isa> = { 0: 'base', 2: 'avx2', 5: 'avx512' }
const BF16_FLAG = 16

export class CpuLibrary {
  readonly isa: Isa
  /** Whether products of bf16 pairs (AVX512-BF16) can be used under this instruction set. */
  readonly hasBf16: boolean
  readonly #library: ReturnType<typeof koffi.load>

  /**
   * @param path  the library that ensureCpuLibrary() built
   * @param cap  the widest instruction set to use, if not the widest the machine has
   * @throws DeviceError when the file cannot be loaded
   */
  constructor(path: string, cap: Isa = 'avx512') {
    try {
      this.#library = koffi.load(path)
    } catch (cause) {
      throw new DeviceError(`cpu: the kernel library ${path} cannot be loaded, delete it to have it built again`, {
        cause,
      })
    }
    const answer = this.plain('isa', '', 'int')()
    const detected = ISA_BY_NUMBER[answer & ~BF16_FLAG]!
    this.isa = ISAS[Math.min(ISAS.indexOf(cap), ISAS.indexOf(detected))]!
    this.hasBf16 = this.isa === 'avx512' && (answer & BF16_FLAG) !== 0
  }

  /**
   * A kernel compiled for this instruction set. `signature` has a letter for each argument after the context:
   * p address, l int64, i int32, u uint32, d double.
   */
  kernel(name: string, signature: string): NativeFunction {
    return this.#function('void', `ty_${name}_${this.isa}`, `p${signature}`) as NativeFunction
  }

  /** A function that exists once, for all instruction sets; `signature` has a letter for every argument. */
  plain(name: string, signature: string, returns = 'void'): (...args: number[]) => number {
    return this.#function(returns, `ty_${name}`, signature)
  }

  #function(returns: string, symbol: string, signature: string): (...args: number[]) => number {
    return this.#library.func(
      symbol,
      returns,
      [...signature].map((letter) => TYPES[letter]!),
    ) as unknown as (...args: number[]) => number
  }
}
