// Reference kernels: dropout and normal numbers from the counter-based streams of core/random.ts.
import type { Kernels } from '../../core/kernels.ts'
import { dropThreshold, randomNormalAt, randomWord } from '../../core/random.ts'
import { elementsOf, rowsOf } from './memory.ts'

export const randomKernels: Pick<Kernels, 'dropout' | 'randomNormal'> = {
  /**
   * out_btd = x_btd / (1 - p) if word ((n_b T + t) D + d) of the stream is at least p 2^32, else 0;
   * n_b = low + 2^32 high is the sequence's number.
   */
  dropout(out, x, sampleIndex, p, key) {
    const [, length, width] = x.shape as [number, number, number]
    const threshold = dropThreshold(p)
    const y = rowsOf(out)
    const sample = rowsOf(sampleIndex)
    rowsOf(x).forEach((row, i) => {
      const [low, high] = sample[Math.floor(i / length)]
      // i32 values are words: -1 stands for 2^32 - 1.
      const number = (low >>> 0) + (high >>> 0) * 2 ** 32
      const first = (number * length + (i % length)) * width
      for (let d = 0; d < width; d++) y[i][d] = randomWord(key, first + d) < threshold ? 0 : row[d] / (1 - p)
    })
  },

  /** out_i = mean + std normal_(start + i) */
  randomNormal(out, key, start, mean, std) {
    const y = elementsOf(out)
    for (let i = 0; i < y.length; i++) y[i] = mean + std * randomNormalAt(key, start + i)
  },
}
