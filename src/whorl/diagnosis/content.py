"""What goes wrong where attention goes by content, or by no order at all."""

from __future__ import annotations

import torch

from whorl.attaching import seams_of
from whorl.diagnosis.agreement import PADDING, _compared
from whorl.diagnosis.answers import Answer, NotApplicable, judged
from whorl.diagnosis.subject import Subject
from whorl.numerics import max_error
from whorl.results.diagnosis import FAIL, WARN


def gaps(subject: Subject) -> Answer:
    """Padding between two parts of a text, as batches of several turns have it: a sum over tokens must not count it."""
    _require_states(subject)
    r = subject.runs
    half = r.length // 2
    row, filler = r.ids[:1], r.ids[1:, :PADDING]
    ids = torch.cat([row[:, :half], filler, row[:, half:]], 1)
    mask = torch.ones_like(ids)
    mask[:, half : half + PADDING] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    given = r(ids, attention_mask=mask, position_ids=positions)[mask.bool()][None]
    return _compared(r, max_error(given, r.outputs[:1]), r.allowed(r.length))


@torch.no_grad()
def states(subject: Subject) -> Answer:
    """The dtype of what is kept of each token, as the model runs."""
    _require_states(subject)
    out = subject.forward(subject.host.model, subject.runs.ids[:1], use_cache=True)
    kept = [getattr(layer, "whorl_states", None) for layer in out.past_key_values.layers]
    found = {state.dtype for one in kept if one is not None for state in one.of_scores}
    low = sorted(str(dtype).removeprefix("torch.") for dtype in found if torch.finfo(dtype).bits < 32)
    return judged(not low, f"kept in {', '.join(low)}" if low else "kept in float32 or better")


def _require_states(subject: Subject) -> None:
    if not any(seam is not None and seam.keeps_state for seam in seams_of(subject.host)):
        raise NotApplicable("nothing is kept of tokens beside their keys")


def order(subject: Subject) -> Answer:
    """Whether an encoder can tell the order of tokens: without a causal mask, positions alone tell it."""
    if not subject.bidirectional:
        raise NotApplicable("a causal mask orders the tokens")
    r = subject.runs
    row, alone, allowed = r.ids[:1], r.outputs[:1], r.allowed(r.length)
    mixed = torch.randperm(r.length, generator=torch.Generator().manual_seed(0)).to(row.device)
    if max_error(r(row[:, mixed]), alone[:, mixed]) <= allowed:
        return Answer(FAIL, f"tokens in another order give the same {r.what}, in that order")
    if max_error(r(row.flip(1)), alone.flip(1)) <= allowed:
        return Answer(
            WARN, f"a text backwards gives the same {r.what}, backwards: distances are known, and no direction"
        )
    return judged(True, f"another order of the tokens gives other {r.what}")
