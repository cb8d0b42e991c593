// The parametric fit and its uncertainty on runs whose law is known, and the minimiser below it on functions whose minima are.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DataError } from '../../src/core/errors.ts'
import { predictLargest, reportFit } from '../../src/plan/scaling/fit-report.ts'
import { minimizeLbfgs } from '../../src/plan/scaling/lbfgs.ts'
import { fitParametric, PARAMETER_NAMES, ParametricBootstrap } from '../../src/plan/scaling/parametric-fit.ts'
import { BESIROGLU_2024, computeOptimal, HOFFMANN_2022, lossOf } from '../../src/plan/scaling/parametric-law.ts'
import { chinchillaRuns } from './scaling-design.ts'

test('L-BFGS finds the minimum of the Rosenbrock function in ten dimensions', () => {
  const result = minimizeLbfgs((x, gradient) => {
    gradient.fill(0)
    let value = 0
    for (let i = 0; i + 1 < x.length; i++) {
      const [a, b] = [x[i + 1]! - x[i]! ** 2, 1 - x[i]!]
      value += 100 * a * a + b * b
      gradient[i]! += -400 * x[i]! * a - 2 * b
      gradient[i + 1]! += 200 * a
    }
    return value
  }, new Float64Array(10).fill(-1.2))
  assert.ok(result.hasConverged)
  for (const x of result.x) assert.ok(Math.abs(x - 1) < 1e-8, `${x}`)
})

test('L-BFGS goes round a region where the function has no value', () => {
  const result = minimizeLbfgs(
    (x, gradient) => {
      gradient[0] = 1 - 1 / x[0]!
      return x[0]! - Math.log(x[0]!)
    },
    [30],
  )
  assert.ok(Math.abs(result.x[0]! - 1) < 1e-8, `${result.x[0]}`)
})

test('noise-free runs of a published law give its constants back to 1e-4', () => {
  for (const law of [BESIROGLU_2024, HOFFMANN_2022]) {
    const runs = chinchillaRuns(law)
    assert.ok(runs.length > 200 && runs.length < 280, `${runs.length}`)
    const fit = fitParametric(runs)
    for (const name of PARAMETER_NAMES) {
      const error = Math.abs(fit.law[name] / law[name] - 1)
      assert.ok(error < 1e-4, `${law.name}: ${name} is off by ${error}`)
    }
  }
})

test('the lowest starts of the grid end where all 4500 do', () => {
  const runs = chinchillaRuns(BESIROGLU_2024, 0.02, 7).filter((_, i) => i % 16 === 0)
  const some = fitParametric(runs)
  const all = fitParametric(runs, { followedStarts: Number.POSITIVE_INFINITY })
  assert.ok(some.objective <= all.objective * (1 + 1e-9), `${some.objective} against ${all.objective}`)
})

// 95 of 100 intervals of 95 % hold the truth on average; 88 to 99 do in 98.8 of 100 such tests for a constant by chance.
test('with noise of 1 %, 88 to 99 of 100 intervals hold each constant', () => {
  const covered = Object.fromEntries(PARAMETER_NAMES.map((name) => [name, 0]))
  for (let seed = 1; seed <= 100; seed++) {
    const runs = chinchillaRuns(BESIROGLU_2024, 0.01, seed)
    const fit = fitParametric(runs, { followedStarts: 3 })
    const bootstrap = new ParametricBootstrap(runs, fit, { resamples: 200, seed }).run()
    for (const name of PARAMETER_NAMES) {
      const { interval } = bootstrap.spread((law) => law[name])
      if (interval.low <= BESIROGLU_2024[name] && BESIROGLU_2024[name] <= interval.high) covered[name]!++
    }
  }
  for (const name of PARAMETER_NAMES) {
    assert.ok(covered[name]! >= 88 && covered[name]! <= 99, `${name}: ${covered[name]} of 100`)
  }
})

test('resamples do not depend on how many are made at once', () => {
  const runs = chinchillaRuns(BESIROGLU_2024, 0.01, 3).slice(0, 60)
  const fit = fitParametric(runs)
  const whole = new ParametricBootstrap(runs, fit, { resamples: 20, seed: 5 }).run()
  const parts = new ParametricBootstrap(runs, fit, { resamples: 20, seed: 5 })
  while (!parts.isDone) parts.run(7)
  assert.deepEqual(parts.laws, whole.laws)
})

test('with equal exponents the fit finds a law that has them', () => {
  const law = { E: 1.7, A: 300, B: 900, alpha: 0.31, beta: 0.31 }
  const fit = fitParametric(chinchillaRuns(law), { hasEqualExponents: true })
  assert.equal(fit.law.alpha, fit.law.beta)
  for (const name of PARAMETER_NAMES) assert.ok(Math.abs(fit.law[name] / law[name] - 1) < 1e-4, name)
})

test('a report: optimum with an interval about the true one, held-out runs beside the trivial predictor', async () => {
  const runs = chinchillaRuns(BESIROGLU_2024, 0.005, 11)
  const report = await reportFit(runs, { resamples: 200, holdOut: 0.1, budgets: [1e22] })
  const truth = computeOptimal(BESIROGLU_2024, 1e22)
  const { parameters, loss } = report.optima[0]!
  assert.ok(parameters.interval.low < truth.parameters && truth.parameters < parameters.interval.high)
  assert.ok(Math.abs(loss.value / truth.loss - 1) < 0.005)
  const heldOut = report.heldOut!
  assert.ok(heldOut.fromFlops > heldOut.fittedToFlops)
  assert.ok(heldOut.meanError < 0.01, `${heldOut.meanError}`)
  assert.ok(heldOut.meanError < heldOut.trivialMeanError / 3)
  assert.equal(report.isoflops.parabola!.optima.length > 5, true)
})

test('held out are whole budgets, and errors are those of the predictions', () => {
  const clean = chinchillaRuns(BESIROGLU_2024)
  const last = Math.max(...clean.map((run) => run.flops))
  // A law that bends upwards in the largest budget cannot be foreseen.
  const bent = clean.map((run) => (run.flops === last ? { ...run, loss: run.loss * 1.1 } : run))
  const heldOut = predictLargest(bent, 0.05)
  assert.equal(heldOut.runs, clean.filter((run) => run.flops === last).length)
  assert.ok(Math.abs(heldOut.meanError - (1 - 1 / 1.1)) < 1e-4, `${heldOut.meanError}`)
  const lowest = Math.min(...bent.filter((run) => run.flops < last).map((run) => run.loss))
  const trivial = bent.filter((run) => run.flops === last).map((run) => Math.abs(lowest / run.loss - 1))
  assert.equal(heldOut.trivialWorstError, Math.max(...trivial))
})

test('runs that are just enough for a fit are too few to hold some out', async () => {
  const runs = chinchillaRuns(BESIROGLU_2024).filter((_, i) => i % 40 === 0)
  assert.ok(runs.length >= 6 && runs.length < 8, `${runs.length}`)
  const report = await reportFit(runs.slice(0, 6), { resamples: 100, holdOut: 0.1 })
  assert.equal(report.heldOut, undefined)
  assert.ok(report.fit.residual < 1e-6)
})

test('too few runs are refused with what is needed', () => {
  const runs = chinchillaRuns(BESIROGLU_2024)
  const message = /five constants need at least 6 runs of 3 sizes and 3 amounts of tokens, got 5 runs/
  assert.throws(() => fitParametric(runs.slice(0, 5)), { name: DataError.name, message })
  const oneSize = runs.filter((run) => run.parameters === 1018e6)
  assert.throws(() => fitParametric(oneSize), /of 1 sizes/)
})

test('the objective is the Huber loss of log residuals', () => {
  const law = BESIROGLU_2024
  const runs = chinchillaRuns(law, 0.01, 2).slice(0, 40)
  const { law: fitted, objective } = fitParametric(runs, { delta: 0.005 })
  const expected = runs.reduce((sum, run) => {
    const r = Math.abs(Math.log(run.loss / lossOf(fitted, run.parameters, run.tokens)))
    return sum + (r <= 0.005 ? 0.5 * r * r : 0.005 * (r - 0.0025))
  }, 0)
  assert.ok(Math.abs(objective / expected - 1) < 1e-9, `${objective} ${expected}`)
})
