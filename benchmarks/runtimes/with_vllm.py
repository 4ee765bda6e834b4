"""vLLM on the CPU. It gives no logits; a request for each position shares the cache of those before it."""

import os

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

from answering import answer, dense
from vllm import LLM, SamplingParams


def log_probabilities(model, ids, at):
    engine = LLM(
        model,
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=len(ids) + 1,
        max_logprobs=-1,
        max_num_seqs=1,
        seed=0,
    )
    asked = SamplingParams(max_tokens=1, temperature=0, logprobs=-1, detokenize=False)
    rows = []
    for position in at:
        done = engine.generate({"prompt_token_ids": ids[: position + 1]}, asked, use_tqdm=False)
        rows.append(dense([(token, said.logprob) for token, said in done[0].outputs[0].logprobs[0].items()]))
    return rows


if __name__ == "__main__":  # its workers import this file
    answer(log_probabilities)
