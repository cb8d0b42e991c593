// The sweep: its grid for a budget, its searches and its conclusions in a world whose law is known, and real runs that are
// made once, in processes of their own, and go on where they were stopped.
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { RunContext } from '../../src/config/context.ts'
import { lossOf } from '../../src/plan/scaling/parametric-law.ts'
import { analyseSweep } from '../../src/plan/sweep/analysis.ts'
import { searchValley, valleyOf } from '../../src/plan/sweep/bracket.ts'
import { RunPool, type RunResult, readCurve } from '../../src/plan/sweep/execute.ts'
import { planGrid, type SweepBudget, sweepCost } from '../../src/plan/sweep/grid.ts'
import { describeSweep, drawSweep, sweepPage } from '../../src/plan/sweep/report.ts'
import { type RunSpec, runSpec, tokensOf } from '../../src/plan/sweep/run-spec.ts'
import { shapeOf, shapeParameters } from '../../src/plan/sweep/shapes.ts'
import { runSweep } from '../../src/plan/sweep/sweep.ts'
import { tunedFor } from '../../src/plan/sweep/tuning.ts'
import { emptyFolder, PROGRAM, trainyard } from '../cli/program.ts'

const FAMILY = { numHiddenLayers: 2, headDim: 16 }
const setting = { vocabSize: 320, seqLen: 128, seed: 1 }
const budgetOf = (flops: number, uniqueTokens = 7e6): SweepBudget => ({
  flops,
  uniqueTokens,
  evaluationTokens: 1e5,
  startFlops: 3e10,
})

test('a grid spends its budget, keeps to the text, and gives every size runs of some length', () => {
  for (const [flops, uniqueTokens] of [
    [2e13, 7e6],
    [2.6e13, 7e6],
    [1e15, 1e9],
    [1e18, 1e11],
  ] as const) {
    const budget = budgetOf(flops, uniqueTokens)
    const grid = planGrid(budget, setting)
    const cost = sweepCost(grid, budget, setting)
    assert.ok(cost <= flops && cost > 0.7 * flops, `${flops}: ${cost}`)
    assert.ok(grid.cells.length >= 9, `${grid.cells.length}`)
    for (const { size, horizon } of grid.cells) {
      const [parameters, tokens] = [grid.sizes[size]!.parameters, grid.horizons[horizon]!]
      assert.ok(tokens <= uniqueTokens && tokens >= 8 * parameters)
      assert.ok(6 * parameters * tokens <= grid.largestFlops)
    }
    for (const [index, { shape, parameters }] of grid.sizes.entries()) {
      assert.equal(parameters, shapeParameters(shape, setting.vocabSize))
      assert.equal(shape.hiddenSize * 3, grid.sizes[0]!.shape.hiddenSize * (index + 3))
      assert.equal(shape.numHiddenLayers, grid.family.numHiddenLayers)
      assert.equal(shape.hiddenSize, grid.family.headDim * shape.numAttentionHeads)
      assert.ok(shape.numAttentionHeads >= 2)
      assert.ok(Math.abs(shape.intermediateSize / shape.hiddenSize / (8 / 3) - 1) < 0.07)
    }
    // The smallest sees every horizon, all sizes share one.
    const of = (size: number): number[] => grid.cells.filter((cell) => cell.size === size).map((cell) => cell.horizon)
    assert.equal(of(0).length, grid.horizons.length)
    assert.ok(of(0).some((horizon) => grid.sizes.every((_, size) => of(size).includes(horizon))))
  }
})

test('a budget that buys no grid is refused with one that does', () => {
  const refused = (): unknown => planGrid(budgetOf(1e11), setting)
  assert.throws(refused, /budget of 1.00e\+11 FLOPs is too small .* give at least [\d.]+e\+1[23]/)
  try {
    refused()
  } catch (error) {
    const enough = Number(/at least ([\d.e+]+)/.exec((error as Error).message)![1])
    assert.ok(planGrid(budgetOf(enough), setting).cells.length > 0)
  }
})

test('a text that is too short for any grid is refused with the tokens that are enough', () => {
  const refused = (): unknown => planGrid(budgetOf(1e15, 1e6), setting)
  assert.throws(refused, /text of 1000000 tokens is too short .* vocabulary of 320: give at least \d+ tokens/)
  try {
    refused()
  } catch (error) {
    const enough = Number(/at least (\d+)/.exec((error as Error).message)![1])
    assert.ok(planGrid(budgetOf(1e15, enough), setting).cells.length > 0)
    assert.throws(() => planGrid(budgetOf(1e15, enough - 1), setting), /too short/)
  }
})

test('shapes have the parameters and layers that were asked for', () => {
  for (const parameters of [5e4, 3e5, 2e6, 1e8]) {
    for (const numHiddenLayers of [2, 4, 8]) {
      const shape = shapeOf(parameters, 320, { numHiddenLayers, headDim: 16 })
      if (shape === undefined) continue
      assert.equal(shape.numHiddenLayers, numHiddenLayers)
      assert.ok(Math.abs(shapeParameters(shape, 320) / parameters - 1) <= 0.02)
      assert.equal(shape.hiddenSize / shape.numAttentionHeads, 16)
    }
  }
  assert.notEqual(shapeOf(3e5, 320, FAMILY), undefined)
  assert.equal(shapeOf(1e4, 32000, FAMILY), undefined)
})

test('a valley is found from either side, at an edge, and beside trials that diverged', async () => {
  const search = (minimum: number, start: number, high = 100) =>
    searchValley(
      async (x) => x.map((v) => (v > minimum + 2.5 ? Number.POSITIVE_INFINITY : 3 + 0.1 * (v - minimum) ** 2)),
      start,
      { low: -100, high },
    )
  for (const start of [-3, 0, 0.4, 2]) {
    const valley = await search(0.3, start)
    assert.ok(Math.abs(valley!.x - 0.3) < 1e-9, `${start}: ${valley!.x}`)
    assert.ok(Math.abs(valley!.loss - 3) < 1e-9)
    assert.ok(Math.abs(valley!.flat!.high - (0.3 + Math.sqrt(0.15))) < 1e-9)
  }
  assert.equal((await search(5, 0, 1))!.x, 1)
  assert.equal(await searchValley(async () => undefined, 0, { low: -1, high: 1 }), undefined)
  assert.equal(
    valleyOf([
      { x: 0, loss: Number.POSITIVE_INFINITY },
      { x: 1, loss: 3 },
    ]).x,
    1,
  )
})

/** A world in which every run has the loss of a law, more by how far its rate and batch are from the best ones. */
const WORLD = {
  law: { E: 0.95, A: 35, B: 90, alpha: 0.35, beta: 0.34 },
  lr: (parameters: number, tokens: number, batch: number): number =>
    0.01 * (parameters / 1e5) ** -0.4 * (tokens / 1e6) ** -0.25 * Math.sqrt(batch / 512),
  batch: (tokens: number): number => 1024 * (tokens / 1e6) ** 0.5,
  loss(spec: RunSpec): number {
    const tokens = tokensOf(spec)
    const missLr = Math.log2(spec.lr / WORLD.lr(spec.parameters, tokens, spec.batchTokens))
    const missBatch = Math.log2(spec.batchTokens / WORLD.batch(tokens))
    return lossOf(WORLD.law, spec.parameters, tokens) * (1 + 0.01 * missLr ** 2 + 0.005 * missBatch ** 2)
  },
}

const world = () => {
  const specs = new Map<string, RunSpec>()
  return {
    specs,
    async runAll(asked: readonly RunSpec[]): Promise<RunResult[]> {
      for (const spec of asked) specs.set(spec.id, spec)
      return asked.map((spec) => ({ spec, loss: WORLD.loss(spec), cpuSeconds: 1 }))
    },
  }
}

test('a sweep finds the laws of its world and predicts a model four times its largest', async () => {
  const budget = budgetOf(2.6e13)
  const grid = planGrid(budget, setting)
  const results = (await runSweep(world(), grid, budget, setting))!
  for (const [parameters, tokens] of [
    [1e5, 1e6],
    [1e6, 7e6],
  ] as const) {
    const { lr, batchTokens } = tunedFor(results.tuning.law, parameters, tokens, setting.seqLen)
    // Half an octave above the best, where an eighth of half a per cent is lost; rows are whole.
    const above = Math.log2(batchTokens / WORLD.batch(tokens))
    assert.ok(above > -0.2 && above < 0.9, `${batchTokens}`)
    assert.ok(Math.abs(Math.log2(lr / WORLD.lr(parameters, tokens, batchTokens))) < 0.4, `${lr}`)
  }
  assert.ok(results.spentFlops < 1.05 * budget.flops, `${results.spentFlops}`)
  const report = await analyseSweep(results, grid, budget, setting, { factor: 4 })
  const { spec, loss, lrRange, optimalTokens } = report.recommendation!
  assert.ok(Math.abs(spec.parameters / grid.sizes.at(-1)!.parameters / 4 - 1) < 0.03)
  assert.ok(tokensOf(spec) <= budget.uniqueTokens + spec.batchTokens / 2)
  assert.ok(Math.abs(loss.value / WORLD.loss(spec) - 1) < 0.005, `${loss.value} ${WORLD.loss(spec)}`)
  assert.ok(loss.interval.low <= loss.value && loss.value <= loss.interval.high)
  assert.ok(lrRange!.low < spec.lr && spec.lr < lrRange!.high && optimalTokens.value > 0)
  assert.ok(report.fit.heldOut!.meanError < report.fit.heldOut!.trivialMeanError / 3)
  const [row] = report.sampleEfficiency
  assert.ok(row!.losses[0]!.loss > row!.losses[1]!.loss)
  assert.ok(report.shapes.length >= 2)

  const lines = describeSweep(report, results, { columns: 100, color: false })
  assert.match(lines.join('\n'), /next: [\d.]+[kM] parameters .* on [\d.]+M tokens/)
  const measured = WORLD.loss(spec)
  const check = { parameters: spec.parameters, tokens: tokensOf(spec), predicted: loss.value, measured, lowest: 9 }
  const pictures = drawSweep(report, results, grid, check)
  for (const picture of Object.values(pictures)) {
    // A dot for each run and for the check; one more for each entry of the legend that is a dot.
    const dots = picture.split('<circle').length - 1
    assert.ok(dots > results.grid.length + 1 && dots < results.grid.length + 12, `${dots}`)
    assert.doesNotMatch(picture, /NaN|Infinity|undefined/)
  }
  assert.match(sweepPage('a <b>', pictures, lines), /<h1>a &lt;b&gt;<\/h1>[\s\S]*<svg[\s\S]*<pre>/)
})

test('searches that took more than expected are paid by the dearest runs', async () => {
  const budget = budgetOf(2.6e13)
  const grid = planGrid(budget, setting)
  const results = (await runSweep(world(), grid, { ...budget, flops: 0.8 * budget.flops }, setting))!
  assert.ok(results.dropped.length > 0)
  assert.equal(results.dropped.length + results.grid.length, grid.cells.length)
  const used = results.grid.map(({ cell }) => cell)
  for (const cell of results.dropped) assert.ok(!used.includes(cell))
})

const folder = emptyFolder()

/** Enough of a RunContext for runs; they are real processes of the real program. */
function contextOf(signal: AbortSignal): RunContext {
  const rest = { cwd: folder, env: process.env, program: [process.execPath, PROGRAM], signal }
  return rest as unknown as RunContext
}

test('a run is a pretrain: made once, known afterwards, and it goes on where it was stopped', async () => {
  const prepared = trainyard(
    ['data', 'prepare', join(import.meta.dirname, '../../docs'), '--train-tokenizer', '300', '--out', 'data'].concat([
      ...['--split', 'blank-lines', '--validation-fraction', '0.05'],
    ]),
    {},
    folder,
  )
  assert.equal(prepared.status, 0, prepared.stderr)
  const small = { vocabSize: 300, seqLen: 64, seed: 3 }
  const shape = shapeOf(40000, 300, FAMILY)!
  const options = {
    data: 'data',
    folder: join(folder, 'runs'),
    jobs: 2,
    deviceWords: ['--threads', '1'],
    setting: small,
  }
  const specs = [0.01, 0.02].map((lr) => runSpec('lr', shape, { tokens: 20480, batchTokens: 256, lr }, small))
  const pool = new RunPool(contextOf(new AbortController().signal), options)
  // Twice the same run, asked for at once, is one.
  const results = (await pool.runAll([...specs, specs[0]!]))!
  assert.equal(results[2], results[0])
  assert.equal(pool.finished, 2)
  for (const { spec, loss, cpuSeconds } of results) {
    assert.ok(loss > 2 && loss < Math.log(300), `${loss}`)
    assert.ok(cpuSeconds > 0)
    assert.equal(readCurve(options.folder, spec, small).tokens.at(-1), 20480)
  }
  const before = readFileSync(join(options.folder, specs[0]!.id, 'actual.json'), 'utf8')
  const again = await new RunPool(contextOf(new AbortController().signal), options).run(specs[0]!)
  assert.deepEqual(again, results[0])
  assert.equal(readFileSync(join(options.folder, specs[0]!.id, 'actual.json'), 'utf8'), before)

  const stop = new AbortController()
  const long = runSpec('grid', shape, { tokens: 2048 * 256, batchTokens: 256, lr: 0.01 }, small)
  const stopped = new RunPool(contextOf(stop.signal), options)
  const metrics = join(options.folder, long.id, 'metrics.jsonl')
  const waiting = setInterval(() => {
    if (existsSync(metrics) && readFileSync(metrics, 'utf8').split('\n').length > 20) stop.abort()
  }, 20)
  assert.equal(await stopped.run(long), undefined)
  clearInterval(waiting)
  const stepsBefore = readCurve(options.folder, long, small).tokens.length
  assert.ok(stepsBefore >= 20 && stepsBefore < 2048, `${stepsBefore}`)
  const finished = await new RunPool(contextOf(new AbortController().signal), options).run(long)
  assert.ok(finished!.loss < results[0]!.loss)
  assert.equal(readCurve(options.folder, long, small).tokens.length, 2048)
})

test('a run that fails by itself fails the sweep in one sentence', async () => {
  const options = { data: 'nowhere', folder: join(folder, 'failing'), jobs: 1, deviceWords: [], setting }
  const spec = runSpec('grid', shapeOf(50000, 320, FAMILY)!, { tokens: 1e4, batchTokens: 256, lr: 0.01 }, setting)
  const pool = new RunPool(contextOf(new AbortController().signal), options)
  await assert.rejects(pool.run(spec), /sweep: run .* ended with exit code \d: .*nowhere.*; when that is put right/)
})

test('a file of the sweep that is torn or another one is refused before any other work, with what to do', () => {
  for (const [text, what] of [
    [
      '{"options": {',
      /sweep\.json: expected a JSON object, but it is not readable JSON .*; delete it and give the same/,
    ],
    [
      '{"options": {"budget": "5m"}, "budget": {"flops": 1, "startFlops": 1, "uniqueTokens": 1, "evaluationTokens": 1}}',
      /sweep: torn was begun with .*, now it is .*; use the same, or another folder/,
    ],
    [
      '{"options": {}}',
      /sweep\.json: expected the options and the budget of a sweep, but .*; delete it and give the same/,
    ],
  ] as const) {
    mkdirSync(join(folder, 'torn'), { recursive: true })
    writeFileSync(join(folder, 'torn', 'sweep.json'), text)
    const { status, stderr } = trainyard(['sweep', '--data', 'nowhere', '--budget', '10m', '--out', 'torn'], {}, folder)
    assert.notEqual(status, 0)
    assert.match(stderr, what)
    assert.equal(readFileSync(join(folder, 'torn', 'sweep.json'), 'utf8'), text)
  }
})
