// The prompt at the terminal: the user types, the model continues, the transcript grows. Used by chat and demo.
import type { RunContext } from '../config/context.ts'
import type { Device } from '../core/device.ts'
import { DecodingSession, generate } from './generate.ts'
import type { LoadedModel } from './load.ts'
import { promptIds } from './load.ts'
import type { SamplingConfig } from './sampler.ts'

/** Reads lines and streams continuations until the input ends. Does nothing where nobody is there to type. */
export async function completionPrompt(
  { model, tokenizer }: Pick<LoadedModel, 'model' | 'tokenizer'>,
  device: Device,
  context: RunContext,
  options: { sampling: SamplingConfig; maxNewTokens: number; stop?: readonly string[] },
): Promise<void> {
  const session = new DecodingSession(model, device)
  using _ = context.interruptNotice('ending the chat')
  let replies = 0
  while (!context.signal.aborted) {
    const line = await context.prompt(session.length === 0 ? '> ' : '... ')
    if (line === undefined) return
    if (line === '') {
      session.truncate(0)
      continue
    }
    const ids = session.length === 0 ? promptIds(tokenizer, line) : [...tokenizer.encode(line)]
    if (session.length + ids.length + options.maxNewTokens > session.capacity) {
      if (session.length > 0) context.warn('(the context is full: starting anew)')
      session.truncate(0)
    }
    using interrupt = context.interruptScope()
    const prompt = session.length === 0 ? promptIds(tokenizer, line).slice(-Math.floor(session.capacity / 2)) : ids
    const result = await generate(
      session,
      tokenizer,
      prompt,
      {
        sampling: { ...options.sampling, seed: options.sampling.seed + replies++ },
        maxNewTokens: options.maxNewTokens,
        stop: options.stop ?? [],
        signal: interrupt.signal,
        turn: () => context.turn(),
      },
      (piece) => context.write(piece),
    )
    context.write('\n')
    if (result.reason === 'eos' || result.reason === 'context') session.truncate(0)
  }
}
