"""llama.cpp's server in this process (xllamacpp), keys and values in float32.

A request for each position; the server keeps the cache of what the last one has in common with it.
"""

import os

import xllamacpp
from answering import answer, dense


def log_probabilities(model, ids, at):
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.n_ctx = len(ids) + 8
    settings.n_parallel = 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.fit_params = settings.warmup = False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    server = xllamacpp.Server(settings)
    said = next(token for token in dict.fromkeys(ids) if after(server, ids[:1], token))
    return [dense(after(server, ids[: position + 1], said)) for position in at]


def after(server, ids, said):
    """(token, log-probability) of every token, from the logits as they are; nothing where the token that is said next,
    whatever the logits, has no text of its own (a part of a letter, an end): the server then leaves them out."""
    asked = {"prompt": ids, "n_predict": 1, "n_probs": 10**9, "cache_prompt": True, "logit_bias": [[said, 1e6]]}
    found = server.handle_completions(asked)["choices"][0]["logprobs"]
    return [(one["id"], one["logprob"]) for one in found["content"][0]["top_logprobs"]] if found else []


if __name__ == "__main__":
    answer(log_probabilities)
