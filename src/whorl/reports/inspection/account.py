"""HoPE's account of RoPE: a U-shape, made by a few pairs that its cut removes, which leave their range first."""

from whorl.reports.formatting import listing
from whorl.reports.inspection.logits import is_open, leaves_first, removed_in_words, wavelengths_in_words
from whorl.reports.inspection.telling import PROTOCOLS, Finding, mean_over, pairs_in_words
from whorl.results.inspection import Inspection


def account(m: Inspection) -> Finding | None:
    """Whether it holds for this model. None where its U-shape was not measured."""
    text, random = m.summary.u_shape.text, m.summary.u_shape.random
    u, where = (text, PROTOCOLS["text"]) if random is None else (random, PROTOCOLS["random"])
    if u is None:
        return None
    where += mean_over(m, u)
    settings = m.summary.settings
    if settings.length < settings.train_length:
        said = (
            "Whether HoPE's account holds for this model is not resolved: it is about the training length, "
            f"{settings.train_length:,} tokens, and windows of {settings.length:,} were read."
        )
        return Finding(said, "logits")
    if is_open(u):
        said = f"Whether HoPE's account holds for this model is not resolved, as a U-shape {where} is not."
        return Finding(said, "logits")
    if not u.appears:
        said = f"HoPE's account does not hold for this model: its logits have no U-shape {where}"
        if u is random and text is not None and text.appears:
            said += ", though they have one on the text"
        return Finding(f"{said}.", "logits")
    if u.activated is None:
        said = (
            f"HoPE's account holds only in part: the logits have a U-shape {where}, but no group of pairs is known "
            "that makes it."
        )
        return Finding(said, "logits")
    pairs, removed = u.activated.pairs, u.activated.removed_by_hope
    against = []
    if u is random and text is not None and not text.appears:
        open_ = is_open(text)
        against.append("one on the text is not resolved" if open_ else "there is none on the text")
    if removed < len(pairs):
        count = f"only {removed} of" if removed else "none of"
        gone = "not remove it" if len(pairs) == 1 else f"remove {count} the {len(pairs)} pairs that make it"
        against.append(f"HoPE's cut would {gone}")
    left = m.summary.out_of_range
    first = left.first_pair if left is not None else None
    if left is not None and first is None:
        against.append("no pair leaves its range beyond it")
    elif first is not None and first.pair not in pairs:
        against.append(f"pair {first.pair}, which is none of them, leaves its range first")
    makers = f"made by {pairs_in_words(pairs)}{wavelengths_in_words(u.activated)}"
    if against:
        said = f"HoPE's account holds only in part: there is a U-shape {where}, {makers}, but {listing(against)}."
    else:
        first_out = "" if first is None else f"; {leaves_first(first, pairs)}"
        cut = f"its cut would remove {removed_in_words(u.activated)}"
        said = f"HoPE's account holds for this model: a U-shape {where} is {makers}{first_out}; {cut}."
    return Finding(said, "logits")
