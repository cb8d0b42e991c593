// Opens the reference device. There is nothing to build or find.
import type { Fp8Scaling } from '../../core/fp8.ts'
import { ReferenceDevice } from './device.ts'

/** @param fp8  round the factors of the layers' products to fp8 in training; default not */
export function openReferenceDevice(fp8?: Fp8Scaling): ReferenceDevice {
  return new ReferenceDevice(fp8)
}
