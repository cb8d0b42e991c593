// The part of @jax-js/jax that the bench uses, as types, and how it is found: it is no dependency of this project.
// Arrays are owned as in that library: passing one to a function gives it away, `ref` keeps it for another use.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

/** The variable that names the folder in which `npm install @jax-js/jax` was run. */
export const JAX_FOLDER_VARIABLE = 'TRAINYARD_JAX_JS'

/** An array or, inside `jit` and `valueAndGrad`, what stands for one. */
export interface JaxArray {
  readonly shape: number[]
  readonly ref: JaxArray
  add(other: JaxArray | number): JaxArray
  sub(other: JaxArray | number): JaxArray
  mul(other: JaxArray | number): JaxArray
  div(other: JaxArray | number): JaxArray
  reshape(shape: readonly number[]): JaxArray
  transpose(): JaxArray
  sum(): JaxArray
  /** An index a dimension; `[]` keeps it whole. */
  slice(...index: (number | [])[]): JaxArray
  dispose(): void
  data(): Promise<Float32Array>
}

/** Arrays by name, as a tree that `jit` and `valueAndGrad` go through. */
export type JaxTree = Record<string, JaxArray>

export interface Jax {
  init(device: 'wasm'): Promise<string[]>
  defaultDevice(device: 'wasm'): string
  jit<F>(f: F): F
  valueAndGrad(
    loss: (parameters: JaxTree, ...others: JaxArray[]) => JaxArray,
  ): (parameters: JaxTree, ...others: JaxArray[]) => [JaxArray, JaxTree]
  /** Waits for all arrays of a tree, and gives none of them away. */
  blockUntilReady(tree: unknown): Promise<unknown>
  readonly tree: { ref(tree: JaxTree): JaxTree; dispose(tree: JaxTree): void }
  readonly numpy: {
    array(values: Float32Array | Int32Array): JaxArray
    zeros(shape: readonly number[]): JaxArray
    matmul(a: JaxArray, b: JaxArray): JaxArray
    power(base: number, exponent: JaxArray): JaxArray
    subtract(a: number, b: JaxArray): JaxArray
    square(x: JaxArray): JaxArray
    sqrt(x: JaxArray): JaxArray
  }
  readonly nn: {
    oneHot(ids: JaxArray, numClasses: number): JaxArray
    /** (x - mean) / sqrt(variance + 1e-5) over the last dimension. */
    standardize(x: JaxArray): JaxArray
    gelu(x: JaxArray, options: { approximate: boolean }): JaxArray
    logSoftmax(x: JaxArray, axis: number): JaxArray
    dotProductAttention(q: JaxArray, k: JaxArray, v: JaxArray, options: { isCausal: boolean }): JaxArray
  }
}

/**
 * Where the library lies: `folder/node_modules/@jax-js/jax`.
 * @throws Error that tells how to get it if it is not there
 */
export function findJax(folder: string | undefined): { version: string; url: string } {
  const how = `mkdir a-folder && cd a-folder && npm init -y && npm install @jax-js/jax, then ${JAX_FOLDER_VARIABLE}=a-folder`
  if (!folder) throw new Error(`bench/versus-jax: ${JAX_FOLDER_VARIABLE} must name a folder with @jax-js/jax: ${how}`)
  const packageFolder = join(folder, 'node_modules', '@jax-js', 'jax')
  if (!existsSync(join(packageFolder, 'package.json'))) {
    throw new Error(`bench/versus-jax: expected ${packageFolder}, found nothing there: ${how}`)
  }
  const { version, module } = JSON.parse(readFileSync(join(packageFolder, 'package.json'), 'utf8')) as {
    version: string
    module: string
  }
  return { version, url: pathToFileURL(join(packageFolder, module)).href }
}
