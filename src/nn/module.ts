// Modules are plain objects that hold parameters as properties: no base class, no registration. This file walks
// them, names what it finds, and gives a model its memory.
import { buildArenas, initialize, type ParameterArena } from '../core/arena.ts'
import type { Device } from '../core/device.ts'
import { bindConstant, Constant, Parameter } from '../core/parameter.ts'

/** Every parameter of a model, each once (tied ones under their first path), in the order of the properties. */
export function parameters(model: object): Parameter[] {
  const found = new Map<Parameter, string>()
  walk(model, '', (value, path) => {
    if (value instanceof Parameter && !found.has(value)) found.set(value, path)
  })
  for (const [parameter, path] of found) parameter.path = path
  return [...found.keys()]
}

function constants(model: object): Constant[] {
  const found = new Set<Constant>()
  walk(model, '', (value) => {
    if (value instanceof Constant) found.add(value)
  })
  return [...found]
}

/**
 * Calls `visit` with each parameter and constant. Parameters live in layer objects (Linear, Embedding, RmsNorm ...);
 * the path given is that of the module which holds the layer object, because part names start from there: the
 * parameter in `selfAttn.qkvProj` has parts `qProj.weight`, `kProj.weight` ... of `selfAttn`.
 */
function walk(module: object, path: string, visit: (value: Parameter | Constant, holderPath: string) => void): void {
  const entries = module instanceof Map ? [...module.entries()] : Object.entries(module)
  const holderPath = path.includes('.') ? path.slice(0, path.lastIndexOf('.')) : ''
  for (const [name, value] of entries) {
    if (value instanceof Parameter || value instanceof Constant) visit(value, holderPath)
    else if (typeof value === 'object' && value !== null && isModule(value)) {
      walk(value, path === '' ? String(name) : `${path}.${name}`, visit)
    }
  }
}

/** Plain configuration objects hold no parameters; walking them finds nothing, so only typed arrays are excluded. */
function isModule(value: object): boolean {
  return !ArrayBuffer.isView(value) && !Array.isArray(value)
}

export function parameterCount(model: object): number {
  return parameters(model).reduce((sum, parameter) => sum + parameter.size, 0)
}

/**
 * Gives a model (until now shapes only) its memory on `device`, in flat arenas. With a seed the parameters start
 * from their random initialisation; without, their contents are undefined until weights are loaded.
 * @param options.isTrained  default true; false for inference: no masters beside the copies that ops read
 * @returns the arenas, which optimizers work on
 */
export function materialize(
  model: object,
  device: Device,
  options: { seed?: number; isTrained?: boolean } = {},
): ParameterArena[] {
  const arenas = buildArenas(parameters(model), device, options.isTrained)
  for (const constant of constants(model)) bindConstant(constant, device)
  if (options.seed !== undefined) initialize(arenas, options.seed)
  return arenas
}
