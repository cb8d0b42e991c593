// The option that keeps a run, or the plan of one, to less memory than there is. No recipe itself.
import { z } from 'zod'
import { field } from '../config/field.ts'

/** @param whose  what the memory is of */
export const memoryLimitField = (whose: string) =>
  field(z.number().positive().optional(), {
    describe: `memory ${whose} that may be taken; default all that is there`,
    unit: 'GiB',
    example: 4,
  })

/** In bytes; undefined for no limit. */
export function memoryLimitBytes(gibibytes: number | undefined): number | undefined {
  return gibibytes === undefined ? undefined : gibibytes * 2 ** 30
}
