// One card in use: context, stream, compiled kernels, launches, scratch memory, timing and graphs. What the op families
// see of it is launcher.ts. Everything runs on one stream in the order of the calls.
import { createHash } from 'node:crypto'
import koffi from 'koffi'
import { DTYPE_BYTES, type Dtype } from '../../core/dtype.ts'
import { DeviceError, invariant } from '../../core/errors.ts'
import { CU, type CudaDriver } from './driver.ts'
import type { CudaKernel, Grid, KernelOptions, Launcher, TensorMap, TensorMapShape } from './launcher.ts'
import type { KernelCompiler } from './nvrtc.ts'

/** TY_DTYPE of kernels/prelude.cuh. */
const DTYPE_MACRO: Readonly<Partial<Record<Dtype, number>>> = { f32: 0, bf16: 1, f16: 2 }

/** CUtensorMapDataType. */
const TENSOR_MAP_DTYPE: Readonly<Record<Dtype, number>> = { u8: 0, i32: 4, f16: 6, f32: 7, f64: 8, bf16: 9 }

/** CUdevice_attribute. */
const ATTRIBUTE = { multiprocessors: 16, major: 75, minor: 76, maxSharedBytes: 97 } as const
/** CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */
const MAX_DYNAMIC_SHARED = 8
const STREAM_NON_BLOCKING = 1
const CAPTURE_RELAXED = 2
/** Until a kernel asks for more than this it needs no permission. */
const DEFAULT_SHARED_BYTES = 48 << 10
/** The driver takes at most 4 KiB of arguments. */
const ARGUMENT_BYTES = 4096
const TENSOR_MAP_BYTES = 128

export interface CardProperties {
  readonly name: string
  readonly index: number
  readonly computeCapability: number
  readonly multiprocessors: number
  readonly maxSharedBytes: number
  readonly memoryBytes: number
}

/** What a segment recorded, as graphs that follow one another: launched again by `replay`. */
export interface RecordedGraph {
  readonly handles: readonly number[]
}

/** Kernels of our own in the first graph of a recording: the card works on that while the host launches the rest, which takes longer. */
const FIRST_PART = 16

/** What is recorded now: graphs that are complete, and the kernels so far. */
interface Capture {
  readonly handles: number[]
  kernels: number
}

export class CudaRuntime implements Launcher {
  readonly driver: CudaDriver
  readonly card: CardProperties
  readonly stream: number
  readonly #compiler: KernelCompiler
  readonly #architecture: string
  readonly #modules = new Map<string, number>()
  /** Dynamic shared memory that a function has been allowed. */
  readonly #sharedBytes = new Map<number, number>()
  readonly #launchRaw: (...args: number[]) => number
  /** Native memory that holds a launch's arguments, its view, and the launch's list of options. */
  readonly #argumentsView: DataView
  readonly #argumentBytes: Uint8Array
  readonly #extraAddress: number
  readonly #argumentsAddress: number
  #scratch = { address: 0, bytes: 0 }
  readonly #oldScratch: { address: number; bytes: number }[] = []
  #capturing: Capture | undefined

  /**
   * @param card  from `cardAt`
   * @throws DeviceError if its memory is taken, another card is in use here, or `architecture` is newer than it
   */
  constructor(
    driver: CudaDriver,
    compiler: KernelCompiler,
    card: CardProperties,
    options: { architecture?: string } = {},
  ) {
    this.driver = driver
    this.#compiler = compiler
    this.card = card
    const { computeCapability } = this.card
    // Hopper's own instructions (wgmma) exist only for the exact chip.
    const own = computeCapability === 90 ? 'sm_90a' : `sm_${computeCapability}`
    const { architecture = own } = options
    if (Number(/\d+/.exec(architecture)![0]) > computeCapability) {
      throw new DeviceError(
        `TRAINYARD_CUDA_ARCHITECTURE: ${architecture} is newer than ${this.card.name} (${own}): leave it out, or name an older chip such as sm_80`,
      )
    }
    // Machine code of an older chip does not load on this one: the driver has to translate.
    this.#architecture = architecture === own ? own : architecture.replace('sm_', 'compute_')
    driver.useCard(card.index)
    this.stream = driver.integer('cuStreamCreate', STREAM_NON_BLOCKING)
    this.#launchRaw = driver.raw('cuLaunchKernel') as (...args: number[]) => number
    const native = driver.integer('cuMemAllocHost_v2', ARGUMENT_BYTES + 64)
    const memory = koffi.view(native, ARGUMENT_BYTES + 64) as ArrayBuffer
    this.#argumentsView = new DataView(memory)
    this.#argumentBytes = new Uint8Array(memory)
    // { CU_LAUNCH_PARAM_BUFFER_POINTER, address, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, end }, the size after the list.
    this.#argumentsAddress = native
    this.#extraAddress = native + ARGUMENT_BYTES
    const list = new BigUint64Array(memory, ARGUMENT_BYTES, 8)
    // Pinned memory comes as its last user left it, and the driver reads all eight bytes of the size.
    list.set([1n, BigInt(native), 2n, BigInt(native + ARGUMENT_BYTES + 48), 0n, 0n, 0n, 0n])
  }

  get multiprocessors(): number {
    return this.card.multiprocessors
  }

  /** 80 where an older path is forced (TRAINYARD_CUDA_ARCHITECTURE). */
  get computeCapability(): number {
    return Number(/\d+/.exec(this.#architecture)![0])
  }

  /** Whether kernels may use what only Hopper has: wgmma exists for sm_90a alone. */
  get isHopper(): boolean {
    return this.#architecture === 'sm_90a'
  }

  /** 13000 for NVRTC 13.0. */
  get compilerVersion(): number {
    return this.#compiler.version
  }

  get maxSharedBytes(): number {
    return this.card.maxSharedBytes
  }

  kernel(file: string, name: string, signature: string, options: KernelOptions = {}): CudaKernel {
    const places = placesOf(signature)
    const write = this.#argumentWriter(places)
    // Where tensor maps really begin is the driver's to know: it is told where each argument is, not where all are.
    const list = signature.includes('m') ? this.#pointerList(places) : 0
    const launch = this.#launchRaw
    const sharedBytes = options.sharedBytes ?? 0
    const extra = list === 0 ? this.#extraAddress : 0
    const { stream } = this
    let handle = 0
    return (grid: Grid, block, ...args) => {
      if (handle === 0) handle = this.#load(file, name, options)
      if (this.#capturing !== undefined) this.#countKernel(this.#capturing)
      write(args)
      const [x, y, z] = typeof grid === 'number' ? [grid, 1, 1] : [grid[0], grid[1], grid[2] ?? 1]
      const [bx, by] = typeof block === 'number' ? [block, 1] : block
      const status = launch(handle, x, y, z, bx, by, 1, sharedBytes, stream, list, extra)
      if (status !== 0) this.driver.fail('cuLaunchKernel' as const, status)
    }
  }

  /** Native memory with the address of each argument, for launches that want a list of them. */
  #pointerList(places: readonly Place[]): number {
    const address = this.driver.integer('cuMemAllocHost_v2', 8 * places.length)
    const list = new BigUint64Array(koffi.view(address, 8 * places.length) as ArrayBuffer)
    list.set(places.map(({ at }) => BigInt(this.#argumentsAddress + at)))
    return address
  }

  #argumentWriter(places: readonly Place[]): (args: readonly (number | TensorMap)[]) => void {
    const view = this.#argumentsView
    const bytes = this.#argumentBytes
    const size = places.length === 0 ? 0 : places.at(-1)!.at + places.at(-1)!.width
    return (args) => {
      invariant(args.length === places.length, `a kernel takes ${places.length} arguments, got ${args.length}`)
      for (let i = 0; i < places.length; i++) {
        const { letter, at } = places[i]!
        const arg = args[i]!
        if (typeof arg !== 'number') bytes.set(arg, at)
        else if (letter === 'i') view.setInt32(at, arg, true)
        else if (letter === 'u') view.setUint32(at, arg, true)
        else if (letter === 'f') view.setFloat32(at, arg, true)
        else if (letter === 'd') view.setFloat64(at, arg, true)
        else {
          view.setUint32(at, arg % 2 ** 32, true)
          view.setInt32(at + 4, Math.floor(arg / 2 ** 32), true)
        }
      }
      view.setUint32(ARGUMENT_BYTES + 48, size, true)
    }
  }

  #load(file: string, name: string, options: KernelOptions): number {
    const module = this.#module(file, options)
    const handle = this.driver.integer('cuModuleGetFunction', module, name)
    const { sharedBytes = 0 } = options
    // The same function may be asked for with different amounts: the largest stays allowed.
    const allowed = this.#sharedBytes.get(handle) ?? DEFAULT_SHARED_BYTES
    if (sharedBytes > allowed) {
      this.driver.call('cuFuncSetAttribute', handle, MAX_DYNAMIC_SHARED, sharedBytes)
      this.#sharedBytes.set(handle, sharedBytes)
    }
    return handle
  }

  #module(file: string, options: KernelOptions): number {
    const flags = compileFlags(options)
    const key = `${file} ${flags.join(' ')}`
    let module = this.#modules.get(key)
    if (module === undefined) {
      const code = this.#compiler.cubin({ file: `${file}.cu`, architecture: this.#architecture, options: flags })
      module = this.driver.integer('cuModuleLoadData', code)
      this.#modules.set(key, module)
    }
    return module
  }

  scratch(bytes: number): number {
    if (bytes > this.#scratch.bytes) {
      invariant(this.#capturing === undefined, 'kernel scratch may not grow while a graph is recorded')
      // What a recorded graph or a running kernel still points at stays; it is smaller, and growth ends with the first step.
      this.reserveScratch(Math.ceil((bytes * 1.25) / (1 << 20)) * (1 << 20))
    }
    return this.#scratch.address
  }

  /** Makes the scratch block this large now, so that it need not grow. */
  reserveScratch(bytes: number): void {
    if (bytes <= this.#scratch.bytes) return
    if (this.#scratch.address !== 0) this.#oldScratch.push(this.#scratch)
    this.#scratch = { address: this.allocate(bytes), bytes }
  }

  /** Bytes of the present scratch block and of those before it. */
  get scratchBytes(): number {
    return [...this.#oldScratch, this.#scratch].reduce((sum, { bytes }) => sum + bytes, 0)
  }

  tensorMap({ dtype, address, sizes, strides, box, swizzle }: TensorMapShape): TensorMap {
    const map = new Uint8Array(TENSOR_MAP_BYTES + 64)
    // The driver asks for 64-byte alignment of the host's copy; ArrayBuffers of this size have 8 or 16.
    const aligned = alignedView(map, 64)
    const item = DTYPE_BYTES[dtype]
    const swizzles = { 0: 0, 32: 1, 64: 2, 128: 3 } as const
    this.driver.call(
      'cuTensorMapEncodeTiled',
      aligned,
      TENSOR_MAP_DTYPE[dtype],
      sizes.length,
      address,
      BigUint64Array.from(sizes, BigInt),
      BigUint64Array.from(strides.length > 0 ? strides : [0], (stride) => BigInt(stride * item)),
      Uint32Array.from(box),
      Uint32Array.from(sizes, () => 1),
      0, // no interleave
      swizzles[swizzle],
      2, // L2 promotion: 128 bytes
      0, // outside the tensor: zeros
    )
    return aligned
  }

  /** @returns 0 when the card is out of memory */
  tryAllocate(bytes: number): number {
    const out = [0]
    const status = this.driver.attempt('cuMemAlloc_v2', out, Math.max(bytes, 256))
    if (status === CU.outOfMemory) return 0
    if (status !== 0) this.driver.fail('cuMemAlloc_v2', status)
    return Number(out[0])
  }

  /** @throws DeviceError when the card is out of memory */
  allocate(bytes: number): number {
    const address = this.tryAllocate(bytes)
    if (address !== 0) return address
    const { free, total } = this.memory()
    const mib = (n: number) => `${(n / 2 ** 20).toFixed(0)} MiB`
    throw new DeviceError(
      `cuda: ${this.card.name} has ${mib(free)} of ${mib(total)} free, ${mib(bytes)} more are needed: halve microBatchSize, or use --recompute selective or full`,
    )
  }

  free(address: number): void {
    this.driver.call('cuMemFree_v2', address)
  }

  memory(): { free: number; total: number } {
    const free = [0]
    const total = [0]
    this.driver.call('cuMemGetInfo_v2', free, total)
    return { free: Number(free[0]), total: Number(total[0]) }
  }

  synchronize(): void {
    this.driver.call('cuStreamSynchronize', this.stream)
  }

  /** Resolves when everything launched so far is done. */
  async finished(): Promise<void> {
    const event = this.driver.integer('cuEventCreate', 2) // no timing
    try {
      this.driver.call('cuEventRecord', event, this.stream)
      for (;;) {
        const status = this.driver.attempt('cuEventQuery', event)
        if (status === 0) return
        if (status !== CU.notReady) this.driver.fail('cuEventQuery', status)
        await new Promise((resolve) => setImmediate(resolve))
      }
    } finally {
      this.driver.call('cuEventDestroy_v2', event)
    }
  }

  /** Milliseconds on the card of what `body` launches. */
  time(body: () => void): number {
    const [start, end] = [this.driver.integer('cuEventCreate', 0), this.driver.integer('cuEventCreate', 0)]
    try {
      this.driver.call('cuEventRecord', start, this.stream)
      body()
      this.driver.call('cuEventRecord', end, this.stream)
      this.driver.call('cuEventSynchronize', end)
      const milliseconds = [0]
      this.driver.call('cuEventElapsedTime_v2', milliseconds, start, end)
      return milliseconds[0]!
    } finally {
      this.driver.call('cuEventDestroy_v2', start)
      this.driver.call('cuEventDestroy_v2', end)
    }
  }

  /** Records what `body` launches; nothing runs. */
  capture(body: () => void): RecordedGraph {
    const handles: number[] = []
    this.#capturing = { handles, kernels: 0 }
    this.#beginPart()
    try {
      body()
    } catch (error) {
      const out = [0]
      this.driver.attempt('cuStreamEndCapture', this.stream, out)
      if (Number(out[0]) !== 0) this.driver.attempt('cuGraphDestroy', Number(out[0]))
      this.forget({ handles })
      throw error
    } finally {
      this.#capturing = undefined
    }
    handles.push(this.#endPart())
    return { handles }
  }

  #beginPart(): void {
    this.driver.call('cuStreamBeginCapture_v2', this.stream, CAPTURE_RELAXED)
  }

  #endPart(): number {
    const out = [0]
    this.driver.call('cuStreamEndCapture', this.stream, out)
    const graph = Number(out[0])
    const handle = this.driver.integer('cuGraphInstantiateWithFlags', graph, 0)
    this.driver.call('cuGraphDestroy', graph)
    return handle
  }

  /** A kernel is about to be recorded. */
  #countKernel(capture: Capture): void {
    if (capture.kernels++ !== FIRST_PART) return
    capture.handles.push(this.#endPart())
    this.#beginPart()
  }

  replay({ handles }: RecordedGraph): void {
    for (const handle of handles) this.driver.call('cuGraphLaunch', handle, this.stream)
  }

  forget({ handles }: RecordedGraph): void {
    for (const handle of handles) this.driver.call('cuGraphExecDestroy', handle)
  }

  /** Ends the stream and gives the kernels' memory back. */
  close(): void {
    for (const { address } of [...this.#oldScratch, this.#scratch]) if (address !== 0) this.free(address)
    this.#scratch = { address: 0, bytes: 0 }
    this.#oldScratch.length = 0
    for (const module of this.#modules.values()) this.driver.call('cuModuleUnload', module)
    this.#modules.clear()
    this.driver.call('cuStreamDestroy_v2', this.stream)
    this.driver.leaveCard(this.card.index)
  }

  /** A short text that is the same for the same card, driver and compiler: part of what fixes the bits of a run. */
  get fingerprint(): string {
    const parts = [this.card.name, this.driver.version, this.#compiler.version, this.#architecture]
    return createHash('sha256').update(parts.join('/')).digest('hex').slice(0, 16)
  }
}

/** Where an argument lies. */
interface Place {
  readonly letter: string
  readonly at: number
  readonly width: number
}

/** Arguments laid out as a C struct of the signature's types. */
function placesOf(signature: string): Place[] {
  const places: Place[] = []
  let size = 0
  for (const letter of signature) {
    const width = letter === 'm' ? TENSOR_MAP_BYTES : 'pld'.includes(letter) ? 8 : 4
    const alignment = letter === 'm' ? 64 : width
    size = Math.ceil(size / alignment) * alignment
    places.push({ letter, at: size, width })
    size += width
  }
  invariant(size <= ARGUMENT_BYTES, 'a kernel has too many arguments')
  return places
}

function compileFlags({ dtype = 'f32', defines = {}, fusedMultiplyAdd = true }: KernelOptions): string[] {
  const macro = DTYPE_MACRO[dtype]
  invariant(macro !== undefined, `no kernel is compiled for ${dtype}`)
  return [
    `-DTY_DTYPE=${macro}`,
    ...Object.entries(defines).map(([name, value]) => `-D${name}=${value}`),
    ...(fusedMultiplyAdd ? [] : ['--fmad=false']),
  ]
}

/**
 * What the driver tells of a card.
 * @param index  as the driver counts
 * @throws DeviceError if there is no such card, or it is older than compute capability 8.0
 */
export function cardAt(driver: CudaDriver, index: number): CardProperties {
  const count = driver.integer('cuDeviceGetCount')
  if (index >= count) {
    throw new DeviceError(
      count === 0
        ? 'cuda: the driver shows no card: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu'
        : `cuda: there is no card ${index}, the driver shows ${count}: use cuda:0${count > 1 ? ` to cuda:${count - 1}` : ''}`,
    )
  }
  const name = new Uint8Array(256)
  driver.call('cuDeviceGetName', name, name.length, index)
  const attribute = (id: number): number => driver.integer('cuDeviceGetAttribute', id, index)
  const computeCapability = attribute(ATTRIBUTE.major) * 10 + attribute(ATTRIBUTE.minor)
  const nameText = new TextDecoder().decode(name.subarray(0, name.indexOf(0)))
  if (computeCapability < 80) {
    throw new DeviceError(
      `cuda: ${nameText} has compute capability ${(computeCapability / 10).toFixed(1)}, 8.0 (A100, RTX 30) or newer is needed: use --device cpu`,
    )
  }
  return {
    name: nameText,
    index,
    computeCapability,
    multiprocessors: attribute(ATTRIBUTE.multiprocessors),
    maxSharedBytes: attribute(ATTRIBUTE.maxSharedBytes),
    memoryBytes: driver.integer('cuDeviceTotalMem_v2', index),
  }
}

/** A part of `bytes` that starts at a multiple of `alignment` in memory. */
function alignedView(bytes: Uint8Array, alignment: number): Uint8Array {
  const address = Number(koffi.address(bytes as never))
  const skip = (alignment - (address % alignment)) % alignment
  return bytes.subarray(skip, skip + bytes.length - alignment)
}
