// Generation with the key-value cache at the 124M shape, one sequence: tokens/s beside what the memory allows. Each token
// reads every weight once (the embedding table as the head), so the roof is the speed of reading that much memory.
//   node bench/decode.ts [--threads 2] [--tokens 48]
import { parseArgs } from 'node:util'
import { DecodingSession } from '../src/infer/generate.ts'
import { argmax } from '../src/infer/sampler.ts'
import { Gpt2 } from '../src/models/gpt2.ts'
import { materialize, parameters } from '../src/nn/module.ts'
import { openDevice } from '../src/open.ts'
import { CPU_SHAPES, shapeConfig, undisturbed } from '../src/train/bench-shapes.ts'
import { measureRoof } from './roof.ts'

const { values } = parseArgs({
  options: { threads: { type: 'string', default: '2' }, tokens: { type: 'string', default: '48' } },
})
const device = await openDevice('cpu', { threads: Number(values.threads) })
const model = new Gpt2(shapeConfig(CPU_SHAPES['124M']!))
const arenas = materialize(model, device, { seed: 1 })
const positions = parameters(model).find((parameter) => parameter.partNames()[0]!.includes('wpe'))!
const bytes = 4 * (arenas.reduce((sum, { weights }) => sum + weights.size, 0) - positions.size)

const session = new DecodingSession(model, device)
let logits = await session.append([11, 22, 33, 44, 55, 66, 77, 88])
const times: number[] = []
let roof = 0
for (let i = 0; i < Number(values.tokens); i++) {
  if (i % 16 === 0) roof = Math.max(roof, measureRoof(device.threads).readGBs)
  const start = performance.now()
  logits = await session.append([argmax(logits)])
  times.push(performance.now() - start)
}
const ms = undisturbed(times)
const rate = bytes / ms / 1e6
console.log(
  `124M decode, ${device.threads} threads, ${device.isa}: ${(1000 / ms).toFixed(1)} tok/s, ${(bytes / 1e6).toFixed(0)} MB a token, ${rate.toFixed(1)} GB/s, ${((100 * rate) / roof).toFixed(1)} % of ${roof.toFixed(1)} GB/s`,
)
device.close()
