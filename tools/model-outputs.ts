// What a model folder computes, for a check by another program: the logits of a list of tokens and the greedy tokens that
// follow. Takes a folder, a file for the logits (f32, [tokens, vocabulary]), a number of tokens to make, and the token ids.
//   node tools/model-outputs.ts models/stories260K logits.bin 64 1 403 407    prints the greedy ids as JSON
import { writeFileSync } from 'node:fs'
import { loadHfWeights } from '../src/checkpoint/hf.ts'
import { createModel, readHfConfig } from '../src/checkpoint/hf-config.ts'
import { tensorFrom } from '../src/core/allocator.ts'
import { Tape } from '../src/core/tape.ts'
import { DecodingSession } from '../src/infer/generate.ts'
import { materialize } from '../src/nn/module.ts'
import { openDevice } from '../src/open.ts'
import { linear } from '../src/ops/linear.ts'
import { greedyTokens } from '../src/recipes/greedy-parity.ts'

const [folder, logitsFile, count, ...words] = process.argv.slice(2)
const ids = words.map(Number)
const device = await openDevice('cpu')
const model = createModel(readHfConfig(folder!))
materialize(model, device)
loadHfWeights(model, folder!)

{
  using _ = new Tape(device, { record: false })
  const tokens = tensorFrom(device, [1, ids.length], ids, 'i32')
  const positions = tensorFrom(
    device,
    [1, ids.length],
    ids.map((_, t) => t),
    'i32',
  )
  const logits = await device.read(linear(model.forward({ tokens, positions }), model.headWeight))
  writeFileSync(logitsFile!, Float32Array.from(logits))
}

console.log(JSON.stringify(await greedyTokens(new DecodingSession(model, device), ids, Number(count))))
device.close()
