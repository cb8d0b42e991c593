// Reads what tools/make-golden.py wrote (config.json as transformers saved it, tensors as base64 in golden.json) and
// makes Trainyard's model of it on a device, through the same loading path as any Hugging Face folder.
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { hfTensors, loadHfWeights } from '../../src/checkpoint/hf.ts'
import { createModel, type HfConfig, readHfConfig } from '../../src/checkpoint/hf-config.ts'
import { tensorSource } from '../../src/checkpoint/safetensors-writer.ts'
import { writeWeightsFolder } from '../../src/checkpoint/weights-folder.ts'
import type { ParameterArena } from '../../src/core/arena.ts'
import type { Device } from '../../src/core/device.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import type { DecoderModel } from '../../src/models/decoder.ts'
import { materialize } from '../../src/nn/module.ts'

/** float32 values as base64 of their little-endian bytes. */
interface EncodedTensor {
  shape: number[]
  f32: string
}

export interface ModelGolden {
  versions: Record<string, string>
  /** [B, T] of every batch. */
  shape: [number, number]
  /** Row by row; a target of -1 is not trained. */
  batches: { tokens: number[]; targets: number[] }[]
  weights: Record<string, EncodedTensor>
  /** Logits of the first batch [B, T, V], their loss (mean over trained tokens) and its gradients. */
  logits: EncodedTensor
  loss: number
  gradients: Record<string, EncodedTensor>
  adamw: { lr: number; beta1: number; beta2: number; eps: number; weightDecay: number; gradClip: number }
  /** Of each batch before its AdamW step. */
  losses: number[]
  /** Before clipping. */
  gradNorms: number[]
  /** Documents of a row, and the logits [T, V] of each run apart, one after the other. */
  packed: { documents: number[][]; logits: EncodedTensor }[]
}

export const GOLDEN_MODELS = ['gpt2', 'llama-tied', 'llama-untied'] as const
export type GoldenModel = (typeof GOLDEN_MODELS)[number]

const here = import.meta.dirname

export function readGolden(name: GoldenModel): ModelGolden {
  return JSON.parse(readFileSync(join(here, name, 'golden.json'), 'utf8')) as ModelGolden
}

export function decode({ f32 }: EncodedTensor): Float32Array {
  const bytes = Buffer.from(f32, 'base64')
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i))
}

/** The golden model in the memory of a device. `change` edits the configuration first. */
export async function loadGoldenModel(
  device: Device,
  name: GoldenModel,
  golden: ModelGolden,
  change: (config: HfConfig) => HfConfig = (config) => config,
): Promise<{ model: DecoderModel; arenas: ParameterArena[] }> {
  const folder = mkdtempSync(join(tmpdir(), 'trainyard-golden-'))
  try {
    copyFileSync(join(here, name, 'config.json'), join(folder, 'config.json'))
    await writeWeightsFolder(
      folder,
      Object.entries(golden.weights).map(([key, value]) => tensorSource(key, 'f32', value.shape, decode(value))),
    )
    const model = createModel(change(readHfConfig(folder)))
    const arenas = materialize(model, device)
    loadHfWeights(model, folder)
    return { model, arenas }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** The gradient of every Hugging Face tensor, as views into the gradients of the (perhaps fused) parameters. */
export function gradientViews(model: object): Map<string, Tensor> {
  const views = new Map<string, Tensor>()
  const seen = new Map<object, number>()
  for (const { name, parameter } of hfTensors(model)) {
    const index = seen.get(parameter) ?? 0
    seen.set(parameter, index + 1)
    const { firstRow, rows } = parameter.parts[index]!
    views.set(name, parameter.gradient!.slice(firstRow, rows))
  }
  return views
}
