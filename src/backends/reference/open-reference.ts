// Opens the reference device. There is nothing to build, find or configure.
import { ReferenceDevice } from './device.ts'

export function openReferenceDevice(): ReferenceDevice {
  return new ReferenceDevice()
}
