// Training steps of a GPT-2 shape in @jax-js/jax on its WebAssembly backend, one jitted function a step, from the weights
// and tokens that bench/versus-torch.ts wrote.
//   node bench/jax-step.ts FOLDER STEPS THREADS
// Prints one line of JSON: version, losses and milliseconds of each step. Reads FOLDER/config.json, model.safetensors,
// tokens.bin and targets.bin (i32). One thread is what the library does in Node; for more see jax-worker.ts.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { SafetensorsFile } from '../src/checkpoint/safetensors.ts'
import { findJax, JAX_FOLDER_VARIABLE, type Jax, type JaxArray, type JaxTree } from './jax-api.ts'
import { installBrowserWorkers } from './jax-worker.ts'

const folder = process.argv[2]!
const [steps, threads] = process.argv.slice(3, 5).map(Number) as [number, number]
const { version, url } = findJax(process.env[JAX_FOLDER_VARIABLE])
if (threads > 1) installBrowserWorkers(threads)
const jax = (await import(url)) as Jax
const { numpy: np, nn } = jax
await jax.init('wasm')
jax.defaultDevice('wasm')

interface Config {
  vocab_size: number
  n_embd: number
  n_layer: number
  n_head: number
  n_positions: number
  bench: { lr: number; betas: [number, number]; weight_decay: number }
}
const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Config
const { vocab_size: vocabSize, n_embd: hiddenSize, n_layer: numLayers, n_head: numHeads, n_positions: seqLen } = config
const { lr, betas, weight_decay: weightDecay } = config.bench

function readWeights(): JaxTree {
  using file = new SafetensorsFile(join(folder, 'model.safetensors'))
  const tree: JaxTree = {}
  for (const [name, { shape }] of file.entries) {
    const values = [...file.chunks(name)].flatMap((chunk) => [...(chunk as Iterable<number>)])
    tree[name.replace(/^transformer\./, '')] = np.array(Float32Array.from(values)).reshape(shape)
  }
  return tree
}

function readIds(name: string): JaxArray {
  const { buffer, byteOffset, length } = readFileSync(join(folder, name))
  const ids = new Int32Array(buffer.slice(byteOffset, byteOffset + length))
  return np.array(ids).reshape([-1, seqLen])
}

function layerNorm(x: JaxArray, p: JaxTree, name: string): JaxArray {
  return nn.standardize(x).mul(p[`${name}.weight`]!.ref).add(p[`${name}.bias`]!.ref)
}

/** y = x W + b with W [in, out], as GPT-2 stores it. */
function linear(x: JaxArray, p: JaxTree, name: string): JaxArray {
  return np.matmul(x, p[`${name}.weight`]!.ref).add(p[`${name}.bias`]!.ref)
}

/** Mean cross-entropy in nats. @param tokens, targets  [B, T] */
function lossOf(p: JaxTree, tokens: JaxArray, targets: JaxArray): JaxArray {
  const batchSize = tokens.shape[0]!
  const rows = batchSize * seqLen
  // Rows are looked up by products with one-hot matrices: the gradient of a lookup is a scatter, and `jit` of 0.1.25
  // refuses that one ("routine primitive scatter input is not imm").
  const embedded = np.matmul(nn.oneHot(tokens.reshape([rows]), vocabSize), p['wte.weight']!.ref)
  let x = embedded.reshape([batchSize, seqLen, hiddenSize]).add(p['wpe.weight']!.ref).reshape([rows, hiddenSize])
  for (let i = 0; i < numLayers; i++) {
    const qkv = linear(layerNorm(x.ref, p, `h.${i}.ln_1`), p, `h.${i}.attn.c_attn`)
    const split = qkv.reshape([batchSize, seqLen, 3, numHeads, hiddenSize / numHeads])
    const [q, k, v] = [split.ref.slice([], [], 0), split.ref.slice([], [], 1), split.slice([], [], 2)]
    const mixed = nn.dotProductAttention(q, k, v, { isCausal: true }).reshape([rows, hiddenSize])
    x = x.add(linear(mixed, p, `h.${i}.attn.c_proj`))
    const activated = nn.gelu(linear(layerNorm(x.ref, p, `h.${i}.ln_2`), p, `h.${i}.mlp.c_fc`), { approximate: false })
    x = x.add(linear(activated, p, `h.${i}.mlp.c_proj`))
  }
  const logits = np.matmul(layerNorm(x, p, 'ln_f'), p['wte.weight']!.ref.transpose())
  jax.tree.dispose(p)
  const picked = nn.logSoftmax(logits, -1).mul(nn.oneHot(targets.reshape([rows]), vocabSize))
  return picked.sum().mul(-1 / rows)
}

interface State {
  weights: JaxTree
  m: JaxTree
  v: JaxTree
}

/** A step of AdamW, weight decay on matrices only. @param t  [] the number of the step, from 1 */
function trainStep(state: State, t: JaxArray, tokens: JaxArray, targets: JaxArray): State & { loss: JaxArray } {
  const [loss, gradients] = jax.valueAndGrad(lossOf)(jax.tree.ref(state.weights), tokens, targets)
  const [beta1, beta2] = betas
  const mScale = np.subtract(1, np.power(beta1, t.ref))
  const vScale = np.subtract(1, np.power(beta2, t))
  const next: State = { weights: {}, m: {}, v: {} }
  for (const [name, weight] of Object.entries(state.weights)) {
    const gradient = gradients[name]!
    const m = state.m[name]!.mul(beta1).add(gradient.ref.mul(1 - beta1))
    const v = state.v[name]!.mul(beta2).add(np.square(gradient).mul(1 - beta2))
    const rootMeanSquare = np.sqrt(v.ref.div(vScale.ref)).add(1e-8)
    const kept = weight.shape.length > 1 ? 1 - lr * weightDecay : 1
    next.weights[name] = weight.mul(kept).sub(m.ref.div(mScale.ref).div(rootMeanSquare).mul(lr))
    next.m[name] = m
    next.v[name] = v
  }
  mScale.dispose()
  vScale.dispose()
  return { ...next, loss }
}

const weights = readWeights()
const zerosLike = (): JaxTree =>
  Object.fromEntries(Object.entries(weights).map(([name, { shape }]) => [name, np.zeros(shape)]))
const [tokens, targets] = [readIds('tokens.bin'), readIds('targets.bin')]
const jitted = jax.jit(trainStep)
let state: State = { weights, m: zerosLike(), v: zerosLike() }
const losses: number[] = []
const ms: number[] = []
for (let step = 1; step <= steps; step++) {
  const start = performance.now()
  const t = np.array(Float32Array.of(step)).reshape([])
  const { loss, ...next } = jitted(state, t, tokens.ref, targets.ref)
  losses.push((await loss.data())[0]!)
  await jax.blockUntilReady(next)
  state = next
  ms.push(performance.now() - start)
}
console.log(JSON.stringify({ version, losses, ms }))
// Workers of the library would keep the process.
process.exit(0)
