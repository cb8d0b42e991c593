// Launchers of native/optimizer.cc and native/random.exact.cc.
import type { Kernels } from '../../core/kernels.ts'
import type { CpuLibrary } from './library.ts'

type Family = 'adam' | 'sgd' | 'lion' | 'momentum' | 'applyUpdate' | 'randomNormal' | 'dropout'

export function optimizerKernels(library: CpuLibrary, context: number): Pick<Kernels, Family> {
  const adam = library.kernel('adam', 'ppppplddddi')
  const sgd = library.kernel('sgd', 'ppppldid')
  const lion = library.kernel('lion', 'pppplddd')
  const momentum = library.kernel('momentum', 'ppppldi')
  const applyUpdate = library.kernel('apply_update', 'pppldd')
  const randomNormal = library.plain('random_normal', 'pplluudd')
  const dropout = library.plain('dropout', 'ppppllluud')
  return {
    adam(ranges, scalars, { beta1, beta2, eps, coupledDecay, convention }) {
      const flags = Number(coupledDecay) | (convention === 'notes' ? 2 : 0)
      for (const { weight, m, v, grad, weightDecay } of ranges) {
        adam(
          context,
          weight.address,
          m.address,
          v.address,
          grad.address,
          scalars.address,
          weight.size,
          beta1,
          beta2,
          eps,
          weightDecay,
          flags,
        )
      }
    },
    sgd: (weight, velocity, grad, scalars, options) =>
      sgd(
        context,
        weight.address,
        velocity?.address ?? 0,
        grad.address,
        scalars.address,
        weight.size,
        options.momentum,
        Number(options.nesterov),
        options.weightDecay,
      ),
    lion: (weight, m, grad, scalars, { beta1, beta2, weightDecay }) =>
      lion(context, weight.address, m.address, grad.address, scalars.address, weight.size, beta1, beta2, weightDecay),
    momentum: (out, m, grad, scalars, options) =>
      momentum(
        context,
        out.address,
        m.address,
        grad.address,
        scalars.address,
        out.size,
        options.momentum,
        Number(options.nesterov),
      ),
    applyUpdate: (weight, update, scalars, { scale, weightDecay }) =>
      applyUpdate(context, weight.address, update.address, scalars.address, weight.size, scale, weightDecay),
    randomNormal: (out, { keyLow, keyHigh }, start, mean, std) =>
      randomNormal(context, out.address, out.size, start, keyLow, keyHigh, mean, std),
    dropout: (out, x, sampleIndex, p, { keyLow, keyHigh }) =>
      dropout(
        context,
        out.address,
        x.address,
        sampleIndex.address,
        x.shape[0]!,
        x.shape[1]!,
        x.shape[2]!,
        keyLow,
        keyHigh,
        p,
      ),
  }
}
