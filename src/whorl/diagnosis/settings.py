"""Checks of settings and modules. Nothing runs but the rotary module."""

from __future__ import annotations

from typing import Any

from whorl.attaching import seams_of
from whorl.diagnosis import reading
from whorl.diagnosis.answers import Answer, NotApplicable, judged
from whorl.diagnosis.files import NO_THETA
from whorl.diagnosis.subject import Subject
from whorl.diagnosis.unread import contradicted, originals
from whorl.diagnosis.unread import unread as unread_keys
from whorl.encodings import Spectrum
from whorl.hosts import head_dim_of
from whorl.hosts.transformers.rope_settings import (
    FOREIGN_BASE_NAMES,
    by_layer_type,
    length_dependent,
    reads,
    rope_parameters,
    rope_type,
    turning_share,
)
from whorl.hosts.transformers.stock_terms import WORDS
from whorl.results.diagnosis import FAIL, PASS, WARN

LONG = 40  # characters of a value that is no number
MOST = 1 << 24  # distances at which B(m) is taken


def _of_cause(subject: Subject, *causes: str) -> Answer:
    """Fails where a table differs from its settings for one of these causes, and says what was found."""
    found = [r for r in subject.readings if r.cause in causes]
    if found:
        return judged(False, "; ".join(f"{r.label}: {r.note}" if r.label else r.note for r in found))
    sound = [r for r in subject.readings if not r.cause]
    return judged(True, _worst(sound) if sound else "no such difference")


def _worst(sound: list[reading.Reading]) -> str:
    known = [r for r in sound if r.meant is not None]
    if not known:
        return sound[0].note
    return max(known, key=lambda r: reading.off(r.done, r.meant) if r.meant else 0.0).note


def precision(subject: Subject) -> Answer:
    return _of_cause(subject, reading.ROUNDED)


def initialised(subject: Subject) -> Answer:
    return _of_cause(subject, reading.UNINITIALISED)


def as_configured(subject: Subject) -> Answer:
    return _of_cause(subject, reading.CHANGED)


def none_ignored(subject: Subject) -> Answer:
    """No setting is dropped: among the rope settings, or at the top of the config."""
    answer, wrong, unread = _ignored_by_type(subject), contradicted(subject), unread_keys(subject)
    if wrong:
        return judged(False, "; ".join([answer.measured] * (answer.status == FAIL) + wrong))
    if unread and answer.status == PASS:
        return Answer(WARN, f"{', '.join(unread)}: nothing in this family's code reads it")
    return answer


def _ignored_by_type(subject: Subject) -> Answer:
    if subject.host.rotary is None and subject.encoding is None:
        return judged(True, "no setting of positions goes unread")
    answer = _of_cause(subject, reading.IGNORED)
    unlike = [r.note for r in subject.readings if r.cause == reading.RAMP]
    return Answer(WARN, "; ".join(unlike)) if unlike and answer.status == PASS else answer


def partial(subject: Subject) -> Answer:
    if all(turning_share(r.settings) >= 1 for r in subject.readings):
        raise NotApplicable("the settings give no partial_rotary_factor below 1")
    return _of_cause(subject, reading.PARTIAL_IGNORED)


def layer_types(subject: Subject) -> Answer:
    found = subject.readings
    if not subject.host.typed and not by_layer_type(rope_parameters(subject.config)):
        raise NotApplicable("the settings are the same for all layers")
    answer = _of_cause(subject, reading.TYPES_IGNORED)
    return answer if answer.status != PASS else judged(True, f"{len(found)} layer types, each with its own frequencies")


def theta(subject: Subject) -> Answer:
    found = subject.readings
    if any(r.cause == reading.CHANGED for r in found):
        raise NotApplicable("the settings were changed after the module was built: see that check")
    for r in found:
        if r.settings.get("rope_theta") is None:
            return judged(False, "rope_parameters give no rope_theta, and the module was built without knowing it")
    in_use = sorted({float(r.settings["rope_theta"]) for r in found})
    shown = ", ".join(f"{t:g}" for t in in_use)
    for name in ("rope_theta", *FOREIGN_BASE_NAMES):
        beside = vars(subject.config).get(name)
        if beside is not None and beside not in in_use:
            value = f"{beside:g}" if isinstance(beside, float) else str(beside)[:LONG]
            return judged(False, f"config.{name} is {value} and goes unread; the model turns by {shown}")
    if subject.files is not None:
        top = subject.files.text_config.get("rope_theta")
        if top not in (None, *WORDS) and (
            not isinstance(top, int | float) or min(top, NO_THETA) not in subject.files.thetas
        ):
            return judged(False, f"config.json says rope_theta {str(top)[:LONG]!r}; the model turns by {shown}")
        said, settings = subject.files.thetas, subject.files.rope_settings
        if said and not set(in_use) & set(said):
            return judged(False, f"config.json says {', '.join(f'{t:g}' for t in said)}; the model turns by {shown}")
        if len(said) > 1 and len(in_use) == 1:
            return judged(
                False, f"config.json says {', '.join(f'{t:g}' for t in said)}; readers differ in which they take"
            )
        if settings and not said:
            return judged(False, f"config.json has rope settings without a theta; this reader's default is {shown}")
        if not said:
            return Answer(WARN, f"config.json says none, as files before rope_theta did: {shown} by default")
    return judged(True, f"theta {shown}")


def attention_factor(subject: Subject) -> Answer:
    """cos and sin carry it once, and the logits' scale is the one that the config gives."""
    answer = _of_cause(subject, reading.AMPLITUDE)
    if answer.status != PASS:
        return answer
    if subject.skeleton is not None:
        scales = zip(subject.host.attentions, subject.skeleton.attentions, strict=True)
        for i, (own, fresh) in enumerate(scales):
            a, b = getattr(own, "scaling", None), getattr(fresh, "scaling", None)
            if isinstance(a, float) and isinstance(b, float) and abs(a - b) > 1e-6 * abs(b):
                return judged(False, f"layer {i} scales its logits by {a:.6g}, and the config gives {b:.6g}")
    if not any(reads(r.settings, "attention_factor") for r in subject.readings):
        raise NotApplicable("no rope type with an attention factor")
    return judged(True, ", ".join(f"{r.done.amplitude:.6g}" for r in subject.readings))


def length(subject: Subject) -> Answer:
    """Positions that nothing prepares the model for."""
    rows, name, declared = subject.host.table_rows, subject.host.family.table_size, subject.context
    if rows is not None and subject.encoding is None:
        says = getattr(subject.config, name, rows)
        if rows < says:
            return judged(False, f"the table has {rows:,} positions, and config.{name} says {says:,}")
    if declared is None:
        nonsense = getattr(subject.config, "max_position_embeddings", None)
        if nonsense is not None:
            return judged(False, f"config.max_position_embeddings is {nonsense!r}")
        raise NotApplicable("the config declares no length")
    stock = subject.readings if _has_stock_rotary(subject) else ()
    matters = any(rope_type(r.settings) in ("yarn", "llama3") or length_dependent(r.settings) for r in stock)
    said = originals(subject)
    if len(said) > 1 and matters:
        return judged(False, f"the original length is said to be {' and '.join(f'{n:,}' for n in said)}")
    unsaid = subject.files is not None and _unsaid(subject.files.text_config, subject.files.rope_settings)
    if stock and unsaid:
        return judged(
            False,
            f"{unsaid} without original_max_position_embeddings: this reader takes the declared {declared:,}, others "
            "a default or none",
        )
    short = ""
    for r in stock:
        kind, factor = rope_type(r.settings), r.settings.get("factor") or 0
        original = r.settings.get("original_max_position_embeddings") or 0
        reach = original * factor
        if kind not in ("yarn", "longrope") or not reach:
            continue
        if declared > reach:
            words = f"{kind} x {factor:g} reaches from {original:,} to {reach:,.0f} tokens"
            return judged(False, f"{words}, and the config declares {declared:,}")
        if original <= declared < reach * 0.99:
            words = f"{kind} x {factor:g} reaches {reach:,.0f} tokens from {original:,}"
            short = f"{words}, and the config declares {declared:,}: readers differ in which they take"
    if subject.length is not None and subject.length > declared:
        return judged(False, f"asked for {subject.length:,} tokens, and the config declares {declared:,}")
    tokens = subject.files.tokenizer_length if subject.files else None
    if tokens is not None and tokens > declared:
        return judged(False, f"the tokenizer lets {tokens:,} tokens through, and the config declares {declared:,}")
    if short:
        return Answer(WARN, short)
    if tokens is not None and tokens < declared:
        return Answer(WARN, f"the tokenizer cuts at {tokens:,} tokens, and the config declares {declared:,}")
    return judged(True, f"{declared:,} tokens declared" + (f", tokenizer {tokens:,}" if tokens else ""))


def _unsaid(config: dict[str, Any], settings: dict[str, Any]) -> str:
    """The rope type of settings that need an original length, in a file that gives none; or nothing."""
    for inner in by_layer_type(settings).values() or [settings]:
        original = "original_max_position_embeddings"
        if reads(inner, original) and not any(place.get(original) for place in (inner, config)):
            return rope_type(inner)
    return ""


def _has_stock_rotary(subject: Subject) -> bool:
    return subject.encoding is None and subject.host.rotary is not None


def base(subject: Subject) -> Answer:
    """B(m) = sum cos(m theta_i) over all pairs of a head, also those that do not rotate (2405.14591, Eq. 8 to 10)."""
    from whorl.theory import b_curve, max_context, negatives

    context = subject.length or subject.context
    if context is None:
        raise NotApplicable("the config declares no length")
    if context > MOST:
        raise NotApplicable(f"{context:,} tokens are declared: B(m) is taken at {MOST:,} distances at most")
    worst: tuple[int, int, str] | None = None
    spectra = _spectra(subject)
    if not spectra:
        raise NotApplicable("no layer turns by fixed frequencies")
    for spectrum, window in spectra:
        reach = min(context, window or context)
        first = max_context(spectrum, reach - 1) if reach > 1 else None
        if first is not None:
            count = negatives(spectrum, reach)
            lowest = float(b_curve(spectrum, reach).min())
            shown = f"B(m) < 0 from m = {first:,} on, at {count:,} of {reach:,} distances, lowest {lowest:.2f}"
            worst = max(worst or (0, 0, ""), (count, first, shown))
    if worst is None:
        return judged(True, f"B(m) >= 0 at all distances below {context:,}")
    return Answer(WARN, worst[2])


def _spectra(subject: Subject) -> list[tuple[Spectrum, int | None]]:
    """Each distinct spectrum with the widest window that it is used in."""
    host = subject.host
    found: dict[Spectrum, list[int | None]] = {}
    for i, (attention, seam) in enumerate(zip(host.attentions, seams_of(host), strict=True)):
        if seam is not None:
            spectrum, pairs = seam.spectrum, seam.spectrum.frequencies
        else:
            own = [r for r in subject.readings if r.label in ("", host.layer_types[i])]
            if not host.turns[i] or not own or own[0].cause == reading.UNINITIALISED:
                continue
            pairs = tuple(own[0].done.frequencies.tolist())
            spectrum = Spectrum(pairs, max(head_dim_of(subject.config, attention), 2 * len(pairs)))
        if spectrum.turning:
            windows = found.setdefault(spectrum, [])
            windows.append(host.windows[i])
    return [(s, None if None in w else max(x for x in w if x is not None)) for s, w in found.items()]
