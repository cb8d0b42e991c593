// Finds every op of src/ops by its shape, so that the tables cannot forget one.
import { readdir } from 'node:fs/promises'
import type { NamedTensors, Op } from '../../src/core/op.ts'

export type AnyOp = Op<NamedTensors, NamedTensors, unknown>

function isOp(value: unknown): value is AnyOp {
  return typeof value === 'object' && value !== null && 'id' in value && 'backwardInput' in value && 'outputs' in value
}

/** Every Op object that a file of src/ops exports. */
export async function allOps(): Promise<AnyOp[]> {
  const folder = new URL('../../src/ops/', import.meta.url)
  const files = (await readdir(folder)).filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts')).sort()
  const modules: Record<string, unknown>[] = await Promise.all(files.map((file) => import(new URL(file, folder).href)))
  return modules.flatMap((module) => Object.values(module).filter(isOp))
}
