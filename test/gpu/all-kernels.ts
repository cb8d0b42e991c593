// Runs every row of the op table, the kernel table and attention-cases.ts once on the card and compares nothing: to be
// watched by compute-sanitizer. Every tensor has a block of its own, so that a step outside of it is seen. With --precision
// fp8 those of fp8-cases.ts instead.
//   compute-sanitizer --tool memcheck node test/gpu/all-kernels.ts [--precision bf16] [--attention mma] [--only attention]
import { parseArgs } from 'node:util'
import { ConfigError } from '../../src/core/errors.ts'
import { type CudaOptions, openDevice } from '../../src/open.ts'
import { cases } from '../ops/cases.ts'
import { runCase } from '../ops/harness.ts'
import { kernelCases } from '../ops/kernel-cases.ts'
import { runKernel } from '../ops/kernel-run.ts'
import { attentionCases } from './attention-cases.ts'
import { castCases, normCases, productCases, runCast, runNorm, runProduct } from './fp8-cases.ts'
import { SeparateMemory } from './gpu.ts'

const { values } = parseArgs({
  options: {
    precision: { type: 'string', default: 'bf16' },
    attention: { type: 'string', default: 'own' },
    /** Rows whose op or kernel begins like this. */
    only: { type: 'string', default: '' },
  },
})
const precision = values.precision as NonNullable<CudaOptions['precision']>
const attention = values.attention as NonNullable<CudaOptions['attention']>
const device = await openDevice('cuda', { precision, attention })
const start = performance.now()
let count = 0
for (const opCase of [...cases, ...attentionCases]) {
  if (precision === 'fp8' || !opCase.op.startsWith(values.only)) continue
  try {
    await runCase(device, opCase, { precision, allocator: new SeparateMemory(device) })
    count++
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    console.log(`${opCase.name}: ${error.message}`)
  }
}
for (const kernelCase of kernelCases) {
  if (precision === 'fp8' || !kernelCase.kernel.startsWith(values.only)) continue
  if (kernelCase.isAboutWorkingCopies && precision === 'f32') continue
  await runKernel(device, kernelCase, precision)
  count++
}
if (device.fp8 !== undefined) {
  for (const castCase of castCases) runCast(device, device.fp8.scaling, castCase)
  for (const normCase of normCases) runNorm(device, normCase)
  for (const productCase of productCases) runProduct(device, device.fp8.scaling, productCase)
  count += castCases.length + normCases.length + productCases.length
  device.runtime.synchronize()
}
device.close()
const seconds = ((performance.now() - start) / 1000).toFixed(1)
console.log(`${count} rows ran in ${precision}, attention ${attention}, in ${seconds} s`)
