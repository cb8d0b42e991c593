// What a run of pretrain can be told before it starts, besides its plan of memory and time: whether its tokens suit its
// size, and which losses to expect. Goes into plan.json; reconcile.ts compares it with what came.
import type { HfConfig } from '../checkpoint/hf-config.ts'
import { threeDigits } from '../display/format.ts'
import { formatModelCount } from './report.ts'
import { BESIROGLU_2024, lossOf } from './scaling/parametric-law.ts'
import { judge } from './verdict.ts'

export interface Outlook {
  readonly lines: readonly string[]
  readonly json: Readonly<Record<string, unknown>>
}

/** Models and tokens that the law was fitted on (Hoffmann et al. 2022, abstract): elsewhere it is no prediction. */
const LAW_PARAMETERS = [70e6, 16e9] as const
const LAW_TOKENS = [5e9, 500e9] as const

/**
 * @param run.isFromScratch  with random weights: only then the first loss is known
 */
export function runOutlook(run: {
  readonly config: HfConfig
  readonly parameterCount: number
  readonly tokens: number
  readonly isFromScratch: boolean
}): Outlook {
  const { config, parameterCount, tokens, isFromScratch } = run
  const verdict = judge(parameterCount, tokens)
  const initialLoss = isFromScratch ? initialLossOf(config) : undefined
  const isInLaw = isWithin(parameterCount, LAW_PARAMETERS) && isWithin(tokens, LAW_TOKENS)
  const law = isInLaw ? lossOf(BESIROGLU_2024, parameterCount, tokens) : undefined
  const first = initialLoss === undefined ? '' : `; first loss about ${initialLoss.toFixed(2)}`
  const last =
    law === undefined ? '' : `, last about ${law.toFixed(2)} on text and tokens like those of ${BESIROGLU_2024.source}`
  return {
    lines: [
      `      ${threeDigits(verdict.tokensPerParameter)} tokens per parameter: ${verdict.sentence}; at that, these FLOPs would train ${formatModelCount(verdict.sameCompute.parameters)} parameters${first}${last}`,
    ],
    json: {
      vocabSize: config.vocabSize,
      tokensPerParameter: verdict.tokensPerParameter,
      verdict: verdict.sentence,
      ...(initialLoss !== undefined && { initialLoss }),
      ...(law !== undefined && { expectedLoss: law, expectedLossBy: BESIROGLU_2024.name }),
    },
  }
}

/**
 * Loss of random weights in nats: the last norm makes hidden states of unit mean square, so that logits are normal with
 * variance width x std^2, and the mean logarithm of their summed exponentials is ln V + variance / 2.
 */
export function initialLossOf({ vocabSize, hiddenSize, initializerRange }: HfConfig): number {
  return Math.log(vocabSize) + (hiddenSize * initializerRange ** 2) / 2
}

function isWithin(value: number, [low, high]: readonly [number, number]): boolean {
  return value >= low && value <= high
}
