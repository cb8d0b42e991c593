// What a time is asked for: a model, laid out on a cluster, under a program.
import type { Architecture } from '../architecture.ts'
import { activationBytes } from './gemm.ts'
import type { Layout } from './layout.ts'
import type { Cluster } from './machine.ts'
import type { Software } from './software.ts'

export interface Setting {
  readonly model: Architecture
  readonly layout: Layout
  readonly on: Cluster
  readonly software: Software
}

/** Bytes of an activation's element, and of a weight's that data-parallel ranks gather. */
export function widthOf({ software }: Setting): number {
  return activationBytes(software.linearPrecision)
}

/** Tokens of a micro-batch on one rank. */
export function tokensOf({ microBatchSize, seqLen, contextParallel }: Layout): number {
  return (microBatchSize * seqLen) / contextParallel
}
