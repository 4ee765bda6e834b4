"""transformers, 4 or 5, as a person loads a folder."""

import torch
from answering import answer, normalized
from transformers import AutoModelForCausalLM


@torch.no_grad()
def log_probabilities(model, ids, at):
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    return normalized(loaded(torch.tensor([ids]), logits_to_keep=torch.tensor(at), use_cache=False).logits[0])


answer(log_probabilities)
