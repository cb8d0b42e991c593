// Laws that follow from fits and papers: division of a budget, lifetime cost, repeated text, Kaplan's laws, envelopes,
// isoFLOP curves of a known law, and the table reader.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { interpolateAkima } from '../../src/plan/scaling/akima.ts'
import {
  dataConstrainedOptimal,
  effectiveTokens,
  MUENNIGHOFF_REPETITION,
  repeatedLoss,
} from '../../src/plan/scaling/data-constrained.ts'
import { fitEnvelope, type LossCurve, smoothCurve } from '../../src/plan/scaling/envelope.ts'
import { lifetimeOptimal } from '../../src/plan/scaling/inference-aware.ts'
import { fitIsoflops, isoflopGroups } from '../../src/plan/scaling/isoflop.ts'
import {
  kaplanCriticalBatch,
  kaplanLoss,
  kaplanLossByCompute,
  kaplanLossByParameters,
  kaplanLossByTokens,
  kaplanOptimal,
  PF_DAY,
} from '../../src/plan/scaling/kaplan.ts'
import {
  BESIROGLU_2024,
  computeOptimal,
  HOFFMANN_2022,
  lossOf,
  MUENNIGHOFF_2023,
  optimalExponents,
  optimalParameters,
  optimalTokens,
  trainingVerdict,
} from '../../src/plan/scaling/parametric-law.ts'
import { parsePoints } from '../../src/plan/scaling/points.ts'
import { fitLine, fitParabola, quantile } from '../../src/plan/scaling/statistics.ts'
import { chinchillaRuns } from './scaling-design.ts'

const near = (actual: number, expected: number, tolerance: number, what = ''): void =>
  assert.ok(Math.abs(actual / expected - 1) <= tolerance, `${what} expected ${expected}, got ${actual}`)

test('the division of a budget is the lowest loss of all divisions', () => {
  for (const law of [HOFFMANN_2022, BESIROGLU_2024]) {
    for (const flops of [1e18, 5.76e23]) {
      const optimum = computeOptimal(law, flops)
      near(6 * optimum.parameters * optimum.tokens, flops, 1e-12)
      for (const factor of [0.9, 0.99, 1.01, 1.1]) {
        assert.ok(lossOf(law, optimum.parameters * factor, optimum.tokens / factor) > optimum.loss)
      }
      near(optimalTokens(law, optimum.parameters), optimum.tokens, 1e-9)
      near(optimalParameters(law, optimum.tokens), optimum.parameters, 1e-9)
    }
  }
})

test('exponents and optima that the papers print', () => {
  // Hoffmann et al., table 2, approach 3: a = 0.46, b = 0.54.
  near(optimalExponents(HOFFMANN_2022).a, 0.46, 0.01)
  // Their figure 4: 40 B parameters for the compute of Gopher by approach 3; read off a line, so loosely.
  near(computeOptimal(HOFFMANN_2022, 5.76e23).parameters, 40e9, 0.2)
  // Besiroglu et al.: a = 0.513, about 20 tokens a parameter at Chinchilla's compute.
  near(optimalExponents(BESIROGLU_2024).a, 0.513, 0.002)
  const { tokens, parameters } = computeOptimal(BESIROGLU_2024, 5.76e23)
  near(tokens / parameters, 20, 0.2)
})

test('a verdict names its approach', () => {
  const gpt3 = trainingVerdict(175e9, 300e9)
  near(1 / gpt3.tokensRatio, 11.7, 0.01)
  assert.equal(gpt3.sentence, 'under-trained by a factor of 12 (20 tokens a parameter)')
  assert.match(trainingVerdict(8.03e9, 15e12).sentence, /^trained 93 times past/)
  assert.match(trainingVerdict(70e9, 1.4e12, BESIROGLU_2024).sentence, /^near .*Besiroglu/)
  assert.throws(() => trainingVerdict(-1, 1e9), /parameters must be a positive number, got -1/)
})

test('lifetime optimum: compute-optimal without inference, the lowest cost of a fine search with it', () => {
  const law = HOFFMANN_2022
  const optimum = computeOptimal(law, 1e23)
  const none = lifetimeOptimal(law, optimum.loss, 0)
  near(none.parameters, optimum.parameters, 1e-4)
  near(none.totalFlops, 1e23, 1e-8)
  const served = lifetimeOptimal(law, optimum.loss, 2e12)
  assert.ok(served.parameters < optimum.parameters && served.tokens > optimum.tokens)
  near(served.loss, optimum.loss, 1e-9)
  let lowest = Number.POSITIVE_INFINITY
  for (let parameters = optimum.parameters / 5; parameters < 2 * optimum.parameters; parameters *= 1.0005) {
    const rest = optimum.loss - law.E - law.A * parameters ** -law.alpha
    if (rest <= 0) continue
    const tokens = (law.B / rest) ** (1 / law.beta)
    lowest = Math.min(lowest, 6 * parameters * tokens + 2 * parameters * 2e12)
  }
  near(served.totalFlops, lowest, 1e-6)
  assert.throws(() => lifetimeOptimal(law, 1.5, 1e12), /loss must be above the law's irreducible 1.69/)
})

test('repeated text: fresh while unique, nearly fresh for four epochs, worth 1 - 1/e at R*, never more than U (1 + R*)', () => {
  assert.equal(effectiveTokens(5e9, 1e10), 5e9)
  assert.equal(effectiveTokens(1e10, 1e10), 1e10)
  const { tokenDecay } = MUENNIGHOFF_REPETITION
  // The next token read at R repetitions is worth exp(-R / R*): a sum of its worths is D'.
  let sum = 1
  const steps = 100_000
  for (let i = 0; i < steps; i++) sum += Math.exp(-((i + 0.5) * 3) / steps / tokenDecay) * (3 / steps)
  near(effectiveTokens(4e9, 1e9), sum * 1e9, 1e-9)
  assert.ok(effectiveTokens(4e9, 1e9) > 3.7e9)
  near((effectiveTokens((1 + tokenDecay) * 1e9, 1e9) - 1e9) / (tokenDecay * 1e9), 1 - 1 / Math.E, 1e-12)
  near(effectiveTokens(1e15, 1e9), (1 + tokenDecay) * 1e9, 1e-12)
})

test('repeated text: the loss is the base law without repetition, and its optimum is the lowest of all divisions', () => {
  near(repeatedLoss(1e9, 2e10, 2e10), lossOf(MUENNIGHOFF_2023, 1e9, 2e10), 1e-12)
  const plenty = dataConstrainedOptimal(1e21, 1e13)
  near(plenty.parameters, computeOptimal(MUENNIGHOFF_2023, 1e21).parameters, 1e-12)
  // Their figure 1: with little text, epochs grow faster than parameters.
  const scarce = dataConstrainedOptimal(9.3e21, 2.5e10)
  assert.ok(scarce.epochs > 4 && scarce.parameters < computeOptimal(MUENNIGHOFF_2023, 9.3e21).parameters)
  for (const factor of [0.8, 0.95, 1.05, 1.25]) {
    assert.ok(repeatedLoss(scarce.parameters / factor, scarce.tokens * factor, 2.5e10) > scarce.loss)
  }
})

test("Kaplan's laws: their numbers and limits", () => {
  // Section 6.3: the laws meet near 1e4 PF-days, 1e12 parameters and a loss of 1.7.
  near(kaplanLossByCompute(1e4 * PF_DAY), 1.7, 0.02)
  near(kaplanOptimal(1e4 * PF_DAY).parameters, 1e12, 0.1)
  near(kaplanOptimal(PF_DAY).batchTokens * kaplanOptimal(PF_DAY).steps, 1.08e10, 1e-9)
  // Section 4.2: overfitting is avoided when D grows as N^0.74.
  const exponent =
    Math.log(kaplanLoss(1e9, 5e3 * 1e9 ** 0.74) / kaplanLoss(1e9, 1e20)) /
    Math.log(kaplanLoss(1e7, 5e3 * 1e7 ** 0.74) / kaplanLoss(1e7, 1e20))
  near(exponent, 1, 0.01)
  near(kaplanLoss(1e30, 1e10), (1.8e13 / 1e10) ** 0.103, 1e-3)
  near(kaplanLossByParameters(8.8e13), 1, 1e-12)
  near(kaplanLossByTokens(5.4e13), 1, 1e-12)
  near(kaplanCriticalBatch(2), 2e8 / 2 ** (1 / 0.21), 1e-12)
})

test('isoFLOP curves of a known law give its exponent and optima', () => {
  const groups = isoflopGroups(chinchillaRuns(BESIROGLU_2024))
  assert.equal(groups.length, 9)
  for (const method of ['parabola', 'interpolation'] as const) {
    const fit = fitIsoflops(groups, method)
    near(fit.parameters.exponent, optimalExponents(BESIROGLU_2024).a, 0.05, method)
    for (const optimum of fit.optima) {
      // Of noisy curves of twenty sizes the lowest point is low by the noise.
      near(
        optimum.loss,
        computeOptimal(BESIROGLU_2024, optimum.flops).loss,
        method === 'parabola' ? 1e-3 : 5e-3,
        method,
      )
    }
  }
  const falling = chinchillaRuns(BESIROGLU_2024).filter((run) => run.tokens / run.parameters > 60)
  assert.throws(() => fitIsoflops(isoflopGroups(falling)), /run smaller and larger models/)
})

test('the envelope of loss curves of a known law gives its exponent', () => {
  const law = BESIROGLU_2024
  const curves = Array.from({ length: 25 }, (_, i): LossCurve => {
    const parameters = 1e7 * 1.6 ** i
    const tokens = Array.from({ length: 400 }, (_, k) => parameters * 0.5 * 1.02 ** k)
    return { parameters, flopsPerToken: 6 * parameters, tokens, loss: tokens.map((D) => lossOf(law, parameters, D)) }
  })
  const fit = fitEnvelope(curves)
  near(fit.parameters.exponent, optimalExponents(law).a, 0.02)
  near(fit.parameters.exponent + fit.tokens.exponent, 1, 1e-6)
  assert.throws(() => fitEnvelope(curves.slice(0, 1)), /one size .* run smaller and larger models/)
})

test('a smoothed curve is the mean of what lies near', () => {
  const curve = { parameters: 1, flopsPerToken: 6, tokens: [100, 101, 102, 200], loss: [1, 2, 6, 5] }
  assert.deepEqual(smoothCurve(curve, 0.05).loss, [3, 3, 3, 5])
})

test("Akima's interpolation goes through its points and is exact for parabolas", () => {
  const x = [0, 1, 2.5, 3, 5, 6]
  const parabola = (t: number): number => 2 * t * t - 3 * t + 1
  // The end slopes go on as a parabola would only for even spacing: use one there.
  const even = [0, 1, 2, 3, 4, 5]
  const at = [0.25, 1.5, 2.75, 4.9]
  const values = interpolateAkima(even, even.map(parabola), at)
  for (const [i, t] of at.entries()) assert.ok(Math.abs(values[i]! - parabola(t)) < 1e-12)
  const y = [3, 1, 4, 1, 5, 9]
  for (const [i, value] of interpolateAkima(x, y, x).entries()) near(value, y[i]!, 1e-12)
})

test('quantiles, lines and parabolas', () => {
  assert.equal(quantile([4, 1, 3, 2], 0.5), 2.5)
  assert.equal(quantile([1, 2, 3, 4, 5], 0.025), 1.1)
  const line = fitLine([0, 1, 2, 3], [1, 3.1, 4.9, 7])
  near(line.slope, 1.98, 1e-12)
  const [c0, c1, c2] = fitParabola([1e6, 2e6, 3e6, 4e6], [1, 4, 9, 16])!
  near(c2, 1e-12, 1e-9)
  assert.ok(Math.abs(c1) < 1e-12 && Math.abs(c0) < 1e-6)
  assert.equal(fitParabola([1, 1, 1], [1, 2, 3]), undefined)
})

test('points are read from the columns that are there, by name or as told', () => {
  const file = parsePoints('name;Model Size;Training FLOP;loss\n"a;b";1e9;6e18;3.5\nc;2e9;;3\n')
  assert.deepEqual(file.columns, { parameters: 'Model Size', flops: 'Training FLOP', loss: 'loss' })
  assert.deepEqual(file.points, [{ parameters: 1e9, tokens: 1e9, flops: 6e18, loss: 3.5 }])
  assert.equal(file.emptyRows, 1)
  // A column of labels that has the name of numbers is passed over.
  const labelled = parsePoints('param_count,n,tokens,loss\nkaplan,1000,2000,4\n')
  assert.deepEqual(labelled.points, [{ parameters: 1000, tokens: 2000, flops: 1.2e7, loss: 4 }])
  const named = parsePoints('a,b,c\n1,2,3\n', { parameters: 'a', tokens: 'b', loss: 'c' })
  assert.deepEqual(named.points, [{ parameters: 1, tokens: 2, flops: 12, loss: 3 }])
})

test('tables that hold no runs are refused in one sentence', () => {
  assert.throws(() => parsePoints('', {}, 'x.csv'), /x.csv: expected CSV text with a header line/)
  assert.throws(() => parsePoints('a,b\n1,2\n'), /expected columns for parameters, tokens or FLOPs, and loss, got a, b/)
  assert.throws(() => parsePoints('n,d,loss\n1e9,-5,3\n'), /row 2, column d: expected a positive number, got -5/)
  assert.throws(() => parsePoints('n,d,loss\n1e9,5,3\nx,5,3\n'), /row 3, column n: expected a positive number, got x/)
  assert.throws(() => parsePoints('n,d,loss\n1,2,3\n', { loss: 'los' }), /there is no column los for loss/)
})
