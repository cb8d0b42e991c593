// Published training speeds beside the cost model's, row by row, with where the predicted step goes. Nothing is run.
// node bench/layout.ts
import { formatPercent } from '../src/display/format.ts'
import { table } from '../src/display/text.ts'
import { estimateStep } from '../src/plan/layout/step.ts'
import * as megatron from '../test/plan/layout-megatron.ts'
import * as others from '../test/plan/layout-others.ts'
import { type PublishedRow, predict, scoreRows, trivialScore } from '../test/plan/layout-score.ts'

const isRows = (value: unknown): value is readonly PublishedRow[] => Array.isArray(value)

for (const [name, rows] of Object.entries({ ...megatron, ...others })) {
  if (!isRows(rows)) continue
  const [ours, trivial] = [scoreRows(rows), trivialScore(rows)]
  console.log(
    `\n${name.toLowerCase().replaceAll('_', ' ')}: mean error ${formatPercent(ours.mean)}, worst ${formatPercent(ours.worst)}, rank correlation ${ours.rank.toFixed(2)}; the group's average: ${formatPercent(trivial.mean)}, ${formatPercent(trivial.worst)}`,
  )
  const lines = rows.map((row) => {
    const predicted = predict(row)
    const { parts, seconds } = estimateStep(row.model, row.layout, row.on, row.software)
    const shares = Object.values(parts).map((part) => formatPercent(part / seconds))
    return [
      row.name,
      row.published.toFixed(1),
      predicted.toFixed(1),
      formatPercent(predicted / row.published - 1),
      ...shares,
    ]
  })
  const heading = [
    'row',
    'published',
    'predicted',
    'error',
    'products',
    'memory',
    'exchange',
    'transfers',
    'bubble',
    'data',
    'optimizer',
  ]
  const align = heading.map((_, index): 'left' | 'right' => (index === 0 ? 'left' : 'right'))
  for (const line of table([heading, ...lines], { hasHeading: true, align })) console.log(line)
}
