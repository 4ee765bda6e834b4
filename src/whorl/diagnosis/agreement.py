"""Checks that run the model, against itself: two ways to the same logits must agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from whorl.attaching import seams_of
from whorl.attaching.turns import Turns
from whorl.checking import few
from whorl.diagnosis.answers import Answer, NotApplicable, judged
from whorl.diagnosis.subject import Runs, Subject
from whorl.finite import first_not_finite
from whorl.hosts import FAMILIES, open_host
from whorl.hosts.transformers.rotary_module import positions_for
from whorl.hosts.transformers.tiny import tiny_model
from whorl.numerics import max_error
from whorl.results.diagnosis import PASS

PADDING = 5
NEAR = 7  # a shift with little rounding in it
FAR = 2048  # a shift past 256, where positions in bfloat16 are no longer whole numbers


def _compared(r: Runs, difference: float, allowed: float, where: str = "") -> Answer:
    """Pass or fail by a difference of outputs; a difference that is not a number fails."""
    shown = f"{r.what} differ by {difference:.2g}, allowed {allowed:.2g}"
    return judged(difference <= allowed, f"{where}: {shown}" if where else shown)


def runs(subject: Subject) -> Answer:
    """Every weight is finite, and so is what a forward gives."""
    broken = subject.not_finite
    if broken:
        return judged(False, f"the weights hold values that are not finite: {few(broken)}")
    if isinstance(subject.first_run, Exception):
        raise subject.first_run
    r = subject.first_run
    own = r.as_it_is()
    if torch.isfinite(r.outputs).all() and not torch.isfinite(own).all():
        dtype = str(subject.host.model.dtype).removeprefix("torch.")
        return judged(False, f"some {r.what} are not finite in the model's own {dtype}, and all are in float32")
    if torch.isfinite(r.outputs).all():
        return judged(True, f"{r.what} up to {float(r.outputs.abs().max()):.3g}")
    return judged(False, f"some {r.what} are not finite; {first_not_finite(subject.host.model, r.ids)}")


def cached(subject: Subject) -> Answer:
    if subject.bidirectional:
        raise NotApplicable("an encoder decodes nothing")
    r = subject.runs
    ids, positions, half = r.ids[:1], r.positions(), r.length // 2
    full = r(ids, position_ids=positions)
    with r.undisturbed():
        out = r.in_one_state(ids[:, :half], position_ids=positions[:, :half], use_cache=True)
        cache, steps = getattr(out, "past_key_values", None), [r.outputs_of(out)]
        if cache is None:
            raise NotApplicable("the model gives no cache")
        for t in range(half, r.length):
            step = {"position_ids": positions[:, t : t + 1], "past_key_values": cache, "use_cache": True}
            steps.append(r.outputs_of(r.in_one_state(ids[:, t : t + 1], **step)))
    return _compared(r, max_error(torch.cat(steps, 1), full), r.allowed(int(positions.max())), _crossing(r))


def _crossing(r: Runs) -> str:
    return "" if r.border is None else f"across position {r.border:,}, where the frequencies change"


def rows(subject: Subject) -> Answer:
    """Each row of a batch as if it were alone: rows of one length, a shorter one, and one past the border."""
    r = subject.runs
    half = r.length // 2
    worst = max_error(r(r.ids), r.outputs)
    mask = torch.ones_like(r.ids)
    mask[1, half:] = 0
    short = r(r.ids, attention_mask=mask)[1:, :half]
    worst = max(worst, max_error(short, r(r.ids[1:, :half])))
    allowed = r.allowed(r.length)
    if r.border is not None:
        low = torch.arange(r.length, device=r.ids.device)[None]
        mixed = r(r.ids, position_ids=torch.cat([low, r.positions()]))
        worst = max(worst, max_error(mixed[:1], r(r.ids[:1], position_ids=low)))
        allowed = r.allowed(int(r.positions().max()))
    return _compared(r, worst, allowed, _crossing(r))


def padding(subject: Subject) -> Answer:
    """Left padding, as generate gives it: a mask, and positions that count what it shows."""
    r = subject.runs
    pad = getattr(subject.config, "pad_token_id", None)
    row, alone = r.ids[:1], r.outputs[:1]
    filler = torch.full_like(row[:, :PADDING], pad if isinstance(pad, int) and pad >= 0 else 0)
    ids = torch.cat([filler, row], 1)
    mask = torch.cat([torch.zeros_like(filler), torch.ones_like(row)], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    given = r(ids, attention_mask=mask, position_ids=positions)[:, PADDING:]
    answer = _compared(r, max_error(given, alone), r.allowed(r.length))
    if not subject.absolute or answer.status != PASS:
        return answer
    try:
        without = max_error(r(ids, attention_mask=mask)[:, PADDING:], alone)
    except (IndexError, RuntimeError):
        return answer
    if without <= r.allowed(r.length):
        return answer
    return Answer(PASS, f"{answer.measured}; {without:.2g} without position_ids, which this family needs")


def packing(subject: Subject) -> Answer:
    """Two documents in one row, told apart by positions that start again."""
    r = subject.runs
    difference = _packed(r)
    allowed = r.allowed(r.length)
    if difference <= allowed or _family_packs(subject.host.model.config.model_type):
        return _compared(r, difference, allowed)
    raise NotApplicable(
        f"stock {subject.host.model.config.model_type} does not tell packed documents apart by position_ids ({r.what} "
        f"differ by {difference:.2g}): do not pack, or give a mask of blocks"
    )


def _packed(r: Runs) -> float:
    positions = torch.arange(r.length, device=r.ids.device).repeat(2)[None]
    packed = r(r.ids.reshape(1, -1), position_ids=positions)
    return max_error(packed.view(2, r.length, -1), r.outputs)


@cache
def _family_packs(model_type: str) -> bool:
    """Whether a tiny stock model of the family does, in this version of transformers."""
    if model_type not in FAMILIES:
        return False
    with torch.random.fork_rng(devices=[]):
        model = tiny_model(model_type)
    r = Runs(Subject(model, open_host(model)))
    return _packed(r) <= r.budget


def shift(subject: Subject) -> Answer:
    """All positions moved by a constant: only differences of positions count."""
    if subject.absolute:
        raise NotApplicable("positions are absolute: they are added to the embedding")
    if subject.encoding is not None and subject.encoding.not_relative:
        raise NotApplicable(f"{subject.encoding} does not promise it: {subject.encoding.not_relative}")
    if any(seam is not None and seam.scaled is not None for seam in seams_of(subject.host)):
        raise NotApplicable("the frequencies go by each query's own position")
    r = subject.runs
    far = FAR
    if r.border is not None:
        far = min(FAR, r.border - r.length)
        if far <= 0:
            raise NotApplicable("the frequencies depend on the length of the input")
    row, positions = r.ids[:1], torch.arange(r.length, device=r.ids.device)[None]
    answer = Answer(PASS, "")
    for by in sorted({min(NEAR, far), far}):
        # With a mask: to some hosts, positions alone that start elsewhere look like packed documents.
        moved = r(row, position_ids=positions + by, attention_mask=torch.ones_like(row))
        answer = _compared(r, max_error(moved, r.outputs[:1]), r.allowed(by + r.length), f"moved by {by:,}")
        if answer.status != PASS:
            break
    return answer


def pattern(subject: Subject) -> Answer:
    """Which layers rotate q and k, tried by giving each layer's attention the tables of other positions."""
    if subject.host.rotary is None:
        raise NotApplicable(f"{type(subject.host.model).__name__} has no rotary module")
    r = subject.runs
    declared, found = subject.declared_to_turn(), _turning(r)
    wrong = [i for i, turns in found.items() if turns != declared[i]]
    if wrong:
        said = ", ".join(f"layer {i} {'turns' if found[i] else 'does not turn'}" for i in wrong)
        return judged(False, f"{said}, and the config says otherwise")
    return judged(True, f"{sum(found.values())} of {len(found)} layers turn by fixed frequencies, as declared")


def _turning(r: Runs) -> dict[int, bool]:
    """Whether each layer's attention gives something else when its tables are those of positions twice as far."""
    found: dict[int, bool] = {}
    with _asking(r, found):
        r(r.ids[:1])
    return found


@contextmanager
def _asking(r: Runs, found: dict[int, bool]) -> Iterator[None]:
    host, handles = r.host, []
    positions = positions_for(host.rotary, 2 * torch.arange(r.length, device=r.ids.device)[None])

    def ask(index: int, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        given = kwargs["position_embeddings"]
        like = torch.zeros(1, r.length, 8, dtype=r.model.dtype, device=r.ids.device)
        arguments = (host.layer_types[index],) if host.typed else ()
        other = host.rotary(like, positions, *arguments)
        if isinstance(given, tuple) and isinstance(given[0], Turns):
            other = (Turns(given[0].positions, other[0].tables),) * 2  # a bias keeps its positions
        moved = module.forward(*args, **{**kwargs, "position_embeddings": other})
        first, second = (out[0] if isinstance(out, tuple) else out for out in (output, moved))
        found[index] = not torch.equal(first, second)

    for index, (attention, seam) in enumerate(zip(host.attentions, seams_of(host), strict=True)):
        if seam is not None and seam.late:
            continue  # turned by the attention interface, from positions and not from tables

        def hook(module: Any, args: Any, kwargs: Any, output: Any, index: int = index) -> None:
            ask(index, module, args, kwargs, output)

        handles.append(attention.register_forward_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
