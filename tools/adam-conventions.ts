// Prints the tables of docs/optimizers.md: Adam as in the paper and PyTorch against Adam as on the lecture notes' slide,
// for a constant gradient and for a tiny Llama on a few lines of text. Runs src/optim on the reference (float64), so
// that every machine prints the same. A test holds the document to it.
import { standaloneTensor } from '../src/core/allocator.ts'
import { Parameter } from '../src/core/parameter.ts'
import { Tape } from '../src/core/tape.ts'
import { Llama } from '../src/models/llama.ts'
import { materialize } from '../src/nn/module.ts'
import { openDevice } from '../src/open.ts'
import { crossEntropy } from '../src/ops/cross-entropy.ts'
import { type AdamConfig, adam } from '../src/optim/adam.ts'
import { Optimizer } from '../src/optim/optimizer.ts'

type Convention = NonNullable<AdamConfig['convention']>

const STEPS_SHOWN = [1, 2, 3, 4, 5, 10, 100, 1000]

/** How far one weight moves in each step under the same gradient, in learning rates. @returns steps 1 .. `steps` */
export async function constantGradient(convention: Convention, gradient: number, steps: number): Promise<number[]> {
  const device = await openDevice('reference')
  const weight = new Parameter([1], [{ name: 'weight', firstRow: 0, rows: 1 }], 'zeros')
  const optimizer = new Optimizer(materialize({ weight }, device, { seed: 0 }), adam({ convention }))
  const moves: number[] = []
  let before = 0
  for (let step = 1; step <= steps; step++) {
    optimizer.begin(1)
    device.write(weight.gradient!, [gradient])
    weight.hasGradient = true
    optimizer.step({ lr: 1, gradClip: 0, step })
    const after = (await device.read(weight))[0]!
    moves.push(before - after)
    before = after
  }
  return moves
}

/** Opening of Moby-Dick (1851, public domain). */
const TEXT =
  'Call me Ishmael. Some years ago - never mind how long precisely - having little or no money in my purse, and nothing ' +
  'particular to interest me on shore, I thought I would sail about a little and see the watery part of the world. It is ' +
  'a way I have of driving off the spleen, and regulating the circulation.'

/** Loss of a byte-level Llama on 4 x 64 bytes before any step and after each of `steps`, in nats a byte. */
export async function tinyModel(convention: Convention, lr: number, steps: number): Promise<number[]> {
  const device = await openDevice('reference')
  const model = new Llama({
    modelType: 'llama',
    vocabSize: 128,
    hiddenSize: 24,
    intermediateSize: 48,
    numHiddenLayers: 2,
    numAttentionHeads: 3,
    numKeyValueHeads: 3,
    headDim: 8,
    maxPositionEmbeddings: 64,
    rmsNormEps: 1e-5,
    ropeTheta: 10000,
    tieWordEmbeddings: true,
    initializerRange: 0.02,
  })
  const optimizer = new Optimizer(materialize(model, device, { seed: 1 }), adam({ convention }))
  const [batchSize, seqLen] = [4, 64]
  const bytes = Buffer.from(TEXT, 'latin1')
  const integers = (value: (i: number) => number) => {
    const tensor = standaloneTensor(device, [batchSize, seqLen], 'i32')
    device.write(
      tensor,
      Array.from({ length: tensor.size }, (_, i) => value(i)),
    )
    return tensor
  }
  const tokens = integers((i) => bytes[i]!)
  const targets = integers((i) => bytes[i + 1]!)
  const positions = integers((i) => i % seqLen)
  const losses: number[] = []
  for (let step = 1; step <= steps + 1; step++) {
    optimizer.begin(batchSize * seqLen)
    using tape = new Tape(device)
    const { loss } = crossEntropy(model.forward({ tokens, positions }), model.headWeight, targets, optimizer.scalars)
    tape.backward(loss)
    losses.push((await device.read(loss))[0]!)
    optimizer.step({ lr, gradClip: 0, step })
  }
  return losses
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  return [line(header), line(header.map(() => '---')), ...rows.map(line)].join('\n')
}

/** Table of the moves under a constant gradient. */
export async function constantGradientTable(): Promise<string> {
  const steps = STEPS_SHOWN[STEPS_SHOWN.length - 1]!
  const columns = [
    { title: 'paper, g = 1', moves: await constantGradient('paper', 1, steps) },
    { title: 'paper, g = 1e-4', moves: await constantGradient('paper', 1e-4, steps) },
    { title: 'notes, g = 1', moves: await constantGradient('notes', 1, steps) },
    { title: 'notes, g = 1e-4', moves: await constantGradient('notes', 1e-4, steps) },
  ]
  return table(
    ['step', ...columns.map(({ title }) => title)],
    STEPS_SHOWN.map((step) => [String(step), ...columns.map(({ moves }) => moves[step - 1]!.toFixed(4))]),
  )
}

/** Table of the losses of the tiny model. */
export async function tinyModelTable(): Promise<string> {
  const columns: { title: string; losses: number[] }[] = []
  for (const lr of [0.003, 0.02]) {
    for (const convention of ['paper', 'notes'] as const) {
      columns.push({ title: `${convention}, lr ${lr}`, losses: await tinyModel(convention, lr, 10) })
    }
  }
  return table(
    ['steps taken', ...columns.map(({ title }) => title)],
    Array.from({ length: 11 }, (_, n) => [String(n), ...columns.map(({ losses }) => losses[n]!.toFixed(4))]),
  )
}

if (import.meta.main) console.log(`${await constantGradientTable()}\n\n${await tinyModelTable()}`)
