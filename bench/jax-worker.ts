// Web Workers on worker_threads, as much of them as @jax-js/jax uses (a module of text under a blob: address that talks by
// messages). Node has no `Worker` of browsers, and without one that library runs on one thread; with this one on several.
import { Worker as NodeThread } from 'node:worker_threads'

/** What a worker of browsers has around its code. */
const PRELUDE = `
const { parentPort } = require('node:worker_threads')
globalThis.self = globalThis
globalThis.postMessage = (message) => parentPort.postMessage(message)
parentPort.on('message', (data) => self.onmessage({ data }))
`

class BrowserWorker {
  onmessage: ((event: { data: unknown }) => void) | undefined
  onerror: ((event: { message: string }) => void) | undefined
  readonly #started: Promise<void>
  #thread: NodeThread | undefined

  constructor(url: string) {
    this.#started = this.#start(url)
  }

  postMessage(message: unknown): void {
    if (this.#thread === undefined) void this.#started.then(() => this.#thread?.postMessage(message))
    else this.#thread.postMessage(message)
  }

  async #start(url: string): Promise<void> {
    const source = await (await fetch(url)).text()
    const thread = new NodeThread(PRELUDE + source, { eval: true })
    thread.on('message', (data) => this.onmessage?.({ data }))
    thread.on('error', (error) => this.onerror?.({ message: String(error) }))
    this.#thread = thread
  }
}

/** Call it before the library is imported. @param threads  what it shall take for the number of processors */
export function installBrowserWorkers(threads: number): void {
  Object.defineProperty(globalThis, 'Worker', { value: BrowserWorker, configurable: true })
  Object.defineProperty(globalThis, 'navigator', { value: { hardwareConcurrency: threads }, configurable: true })
}
