"""The peer of decode.ts: Hugging Face generate with a static cache, greedy, at the same model, batches and contexts."""
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

NEW_TOKENS = 64
points = [(b, c) for b in (1, 8, 64) for c in (128, 2048)]
if len(sys.argv) > 1:
    points = [tuple(map(int, arg.split('x'))) for arg in sys.argv[1:]]
config = LlamaConfig(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
                     num_key_value_heads=4, vocab_size=32000, max_position_embeddings=4096)
model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16, attn_implementation='sdpa').cuda().eval()
for batch, context in points:
    try:
        prompt = torch.randint(0, 32000, (batch, context - NEW_TOKENS // 2), device='cuda')

        def seconds(new_tokens):
            best = float('inf')
            for _ in range(3):
                torch.cuda.synchronize()
                start = time.perf_counter()
                model.generate(prompt, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0,
                               cache_implementation='static')
                torch.cuda.synchronize()
                best = min(best, time.perf_counter() - start)
            return best

        # The prompt and the first token are taken off: decoding alone, as in decode.ts.
        step = (seconds(NEW_TOKENS + 1) - seconds(1)) / NEW_TOKENS
        print(f'HF generate, static cache, batch {batch}, context {context}: {1000 * step:.3f} ms a step, {batch / step:.0f} tok/s',
              flush=True)
    except Exception as error:
        print(f'HF generate, batch {batch}, context {context}: failed, {repr(error)[:200]}', flush=True)
