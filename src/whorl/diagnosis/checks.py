"""The table of checks, and doctor(), which goes through it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from whorl.attaching import attached, detach
from whorl.attaching.records import CONFIG_KEY
from whorl.attaching.seams import attached_to_parts
from whorl.checking import check_numbers, check_path
from whorl.data.corpus import load_tokenizer, read_documents
from whorl.diagnosis import agreement, angles, content, files, fits, settings, texts
from whorl.diagnosis.answers import Answer, Check, NotApplicable, judged
from whorl.diagnosis.images import IMAGE_CHECKS, image_host, subject_of
from whorl.diagnosis.knowing import require_known, require_numbers
from whorl.diagnosis.subject import Subject, openable
from whorl.hosts import Host, open_host, refuse_prompts, text_config, unwrapped
from whorl.results.diagnosis import FAIL, NOT_APPLICABLE, NOT_ASKED, WARN, Diagnosis, Finding

log = logging.getLogger(__name__)

Advance = Callable[[str, int], None]  # the title of a check, of how many


def saved(subject: Subject) -> Answer:
    """What the directory holds beside the config says the same."""
    found = subject.files
    if found is None:
        raise NotApplicable("not read from a directory")
    wrong = files.contradictions(found, subject.host, subject.config)
    left = f"; left alone: {', '.join(found.ignored)}" if found.ignored else ""
    if wrong:
        return judged(False, "; ".join(wrong) + left)
    return judged(True, f"{len(found.frequencies)} rotary buffers among the weights, none against the config{left}")


def readers(subject: Subject) -> Answer:
    """Readers of the spelling before rope_parameters find the settings of a directory."""
    found = subject.files
    if found is None:
        raise NotApplicable("not read from a directory")
    if subject.encoding is not None and not found.config.get(CONFIG_KEY, {}).get("stock"):
        raise NotApplicable("every reader but whorl.load stops at it")
    unsaid = files.unsaid_to_older_readers(found)
    if unsaid:
        return Answer(WARN, f"rope_parameters alone say {', '.join(unsaid)}")
    return judged(True, "nothing stands under rope_parameters alone")


CHECKS = (
    Check(
        "runs",
        "The model gives finite logits",
        "settings that contradict each other may only show in the first forward",
        "read the error; with rope settings set after loading, load again with the settings in the config",
        agreement.runs,
    ),
    Check(
        "initialised",
        "Frequencies are initialised",
        "buffers made on the meta device or by to_empty() hold zeros, ones or noise, and are in no checkpoint: the "
        "model runs and has no positions",
        "load with from_pretrained, or build the rotary module anew: type(rotary)(model.config)",
        settings.initialised,
    ),
    Check(
        "precision",
        "Frequencies are in full precision",
        "model.to(bfloat16) rounds the frequencies themselves: angles are off by radians at long distances",
        "load with from_pretrained(dtype=...), which keeps them in float32, or whorl.attach(model, "
        "whorl.encoding_of(model))",
        settings.precision,
    ),
    Check(
        "angles",
        "cos and sin are right as the model runs",
        "positions or frequencies cast to half precision within a forward, or by autocast, are radians off at far "
        "positions; and frequencies must change at the length that the settings say, and nowhere else",
        "compute angles in float32 whatever the model's dtype (autocast disabled); whorl.attach(model, "
        "whorl.encoding_of(model)) computes them in float64",
        angles.angles,
    ),
    Check(
        "settings",
        "The module does what the config says",
        "the frequencies are made when the model is built; settings that change later are saved and never run",
        "give the settings to from_pretrained (or set them in the config first), or whorl.attach the encoding",
        settings.as_configured,
    ),
    Check(
        "ignored",
        "No rope setting is ignored",
        "a setting that the rope type or the family's code does not read is dropped without an error",
        "remove the setting, or choose the rope type that reads it; whorl.attach can carry out what the family cannot",
        settings.none_ignored,
    ),
    Check(
        "partial",
        "partial_rotary_factor is honoured",
        "many families turn whole heads whatever it says",
        "whorl.attach(model, whorl.PartialRoPE(...)) where the family's code allows it, or remove the setting",
        settings.partial,
    ),
    Check(
        "layer-types",
        "Settings per layer type are honoured",
        "most families have one table for all layers; settings by layer type fall back to the default theta there",
        "give one flat rope_parameters, or whorl.attach(model, 'full_attention=.../sliding_attention=...')",
        settings.layer_types,
    ),
    Check(
        "theta",
        "theta is said once",
        "theta has moved within the config: a reader that looks elsewhere takes its default without a word",
        "write rope_parameters = {'rope_theta': ..., 'rope_type': ...}, and no other theta",
        settings.theta,
    ),
    Check(
        "attention-factor",
        "The attention factor is applied once",
        "YaRN and LongRoPE were tuned with cos and sin multiplied by it: without it, or with its square, long-context "
        "scores fall",
        "leave it to the settings: rope_parameters['attention_factor'], or none for the formula's own",
        settings.attention_factor,
    ),
    Check(
        "fit",
        "The settings are those of the training",
        "weights run under any base, layout and scaling; only a text tells which they were trained with",
        "set the rope settings that fit, or load the checkpoint's own config",
        fits.fit,
    ),
    Check(
        "layout",
        "The layout is the one trained with",
        "weights made for pairs in halves also run with neighbours as pairs, and the other way round: at a high loss",
        "permute the rows of q_proj and k_proj (and their biases) to the other layout when converting",
        texts.layout,
    ),
    Check(
        "proportional",
        "Proportional and partial are not mixed up",
        "one setting, partial_rotary_factor, means an exponent over the whole head (proportional, p-RoPE) or over the "
        "turned width (partial): near tokens look right, far ones do not",
        "set rope_type 'proportional' for p-RoPE and 'default' for partial, as the checkpoint was trained",
        texts.proportional,
    ),
    Check(
        "cache",
        "Cached decoding equals a full forward",
        "generation reads keys that were turned under other frequencies or positions",
        "with rope types dynamic and longrope, whorl.attach(model, whorl.encoding_of(model)) goes by each query's own "
        "position",
        agreement.cached,
    ),
    Check(
        "batch",
        "Rows of a batch do not change one another",
        "the same prompt gives another answer beside a longer one",
        "run rows of one length together, or attach an encoding whose frequencies do not depend on the length",
        agreement.rows,
    ),
    Check(
        "padding",
        "Left padding changes nothing",
        "batched generation pads on the left; wrong positions or an unmasked padding change every answer",
        "pass attention_mask, and position_ids that count it: (mask.cumsum(-1) - 1).clamp(min=0)",
        agreement.padding,
    ),
    Check(
        "gaps",
        "Padding within a text adds nothing to a sum",
        "what adds up gates or angles over tokens (fox, cope, path) counts padding too, where it is not told of it",
        "pass attention_mask; in a score of your own, leave out tokens that are not `real`",
        content.gaps,
    ),
    Check(
        "states",
        "What is kept of tokens is in full precision",
        "sums of gates grow with the text: near 1,000, neighbouring numbers of bfloat16 are 4 apart, and what a head "
        "forgets is rounded away",
        "let `tokens` give float32 (in_full of its parameters; hidden states come so)",
        content.states,
    ),
    Check(
        "order",
        "An encoder knows the order of tokens",
        "no causal mask orders them there: without positions (nope), or with one bias for all distances, a text is a "
        "bag of words",
        "attach rope, t5, learned or sinusoidal; alibi knows distances and no direction",
        content.order,
    ),
    Check(
        "packing",
        "Packed documents do not see one another",
        "training on packed rows otherwise mixes documents, or counts positions on",
        "pass position_ids that start again and no attention_mask, with use_cache=False, or do not pack",
        agreement.packing,
    ),
    Check(
        "shift",
        "Only distances count",
        "rotary and biased models must not notice a constant added to all positions; low precision in the angles, or a "
        "second encoding left in, shows here",
        "compute positions as integers and angles in float32 or better; whorl.attach does",
        agreement.shift,
    ),
    Check(
        "pattern",
        "The layers turn that should",
        "models with position-free layers were trained so; turning them, or stilling another, is not an error anywhere",
        "set no_rope_layers (or the layer types) before the model is built",
        agreement.pattern,
    ),
    Check(
        "length",
        "The declared length is prepared for",
        "past the trained positions a model without an extension breaks, and nothing warns",
        "extend the model (a rope type with a factor, or whorl.attach), or lower the length",
        settings.length,
    ),
    Check(
        "base",
        "The base is large enough for the length",
        "where B(m) = sum cos(m theta_i) is negative, a key like the query is no likelier than another at that "
        "distance (2405.14591)",
        "a necessary condition of theory, no fault: a larger base needs training. whorl.theory.min_base says which",
        settings.base,
    ),
    Check(
        "saved",
        "What is saved agrees with itself",
        "another runtime may read the buffer where this one reads the config",
        "save the model anew; delete whichever of the two is wrong",
        saved,
    ),
    Check(
        "readers",
        "Older readers find the settings",
        "transformers 4 and mlx-lm read rope_theta and rope_scaling at the top of config.json, SGLang "
        "partial_rotary_factor, and take a default without a word where there is none",
        "whorl export writes both spellings; docs/runtimes.md says which engine reads what",
        readers,
    ),
)


def doctor(
    model_or_path: Any,
    *,
    text: str | None = None,
    text_ids: Any = None,
    tokenizer: str | None = None,
    length: int | None = None,
    advance: Advance = lambda check, of: None,
) -> Diagnosis:
    """Looks for what goes wrong with positions without an error, and measures it.

    model_or_path: a model object, which is left as it was; or a directory (or hub name, or a trial's folder of
    `whorl compare`), of which only JSON and safetensors are read, and no code is run; or a GGUF file.
    text: a file or a folder of text that the model should read well, in the tokens of its directory's tokenizer;
    text_ids: the same as token ids [tokens] or [windows, tokens], for a model object too. Without either, a directory
    with a tokenizer is tried on a short story, and a model object on none.
    tokenizer: a folder, GGUF file or hub name to take one from, for a directory without one, or for a model object.
    length: the number of tokens that the model is meant to be run at; default: what its config declares.
    Image models have checks of their own (`IMAGE_CHECKS`), and read no text.
    advance: is told the title of each check before it is asked, and how many are.

    A directory whose encoding is also said in stock terms has two readers. What cannot be asked of whorl's reading is
    asked of the stock one, and so is whether the settings prepare for the length.

    cos and sin are taken from the model as it runs, in its own dtype and autocast. Where two ways to the same outputs
    are compared, models in half precision are run in a float32 copy, and all against one in float64, where memory
    allows.

    Raises ValueError for a model without a known seam, whose seams are a guess that a forward does not bear out, or
    with rope settings that are no numbers; and for a directory without a config or safetensors, or that holds no model.

    >>> whorl.doctor(model.to(torch.bfloat16)).failed
    ('precision',)
    """
    check_numbers(length=length)
    found, given = None, text is not None or text_ids is not None
    if text is not None or tokenizer is not None:
        text_ids = _ids_of(text, model_or_path, text_ids, tokenizer)
    if isinstance(model_or_path, (str, Path)):
        model, found, beside = files.opened(model_or_path)
        if text_ids is None:
            text_ids = encoded(beside, texts.TEXT)
            if text_ids is not None and not _of_this_model(text_ids, model):
                text_ids = None
    else:
        model = model_or_path
    refuse_prompts(model)
    inner = unwrapped(model)
    if (images := image_host(inner)) is not None:
        asked = {"text": given, "tokenizer": tokenizer is not None, "length": length is not None}
        if any(asked.values()):
            out = " and ".join(name for name, it in asked.items() if it)
            raise ValueError(f"{type(inner).__name__} reads images; leave out {out}")
        return _of_images(inner, images, model_or_path, advance)
    if not isinstance(inner, torch.nn.Module):
        open_host(inner)  # says what it is
    if hasattr(inner, "config"):
        require_numbers(text_config(inner.config))
    with torch.no_grad(), openable(inner):
        host = open_host(inner)
        require_known(host)
    named = str(model_or_path) if isinstance(model_or_path, (str, Path)) else type(inner).__name__
    subject = Subject(inner, host, named, text_given=given, length=length, files=found)
    if text_ids is not None:
        subject.text = texts.windows(text_ids, subject.context, subject.config.vocab_size)
    for at, its in attached_to_parts(inner).items():
        log.warning("%s is attached to %s, which is not examined here: whorl.doctor(model.%s) does", its, at, at)
    training = inner.training
    inner.eval()
    try:
        findings = _asked(CHECKS, subject, advance)
        if isinstance(model_or_path, (str, Path)) and is_stock_too(inner):
            findings = _asked_of_stock(inner, subject, findings)
        return Diagnosis(subject.name, tuple(findings))
    finally:
        inner.train(training)


def _of_images(model: Any, host: Host, given: Any, advance: Advance) -> Diagnosis:
    """The findings about an image model, which is left as it was."""
    subject = subject_of(host, str(given) if isinstance(given, (str, Path)) else type(model).__name__)
    training = model.training
    model.eval()
    try:
        return Diagnosis(subject.name, tuple(_asked(IMAGE_CHECKS, subject, advance)))
    finally:
        model.train(training)


def _asked(checks: Sequence[Check], subject: Any, advance: Advance) -> list[Finding]:
    findings = []
    for check in checks:
        advance(check.title, len(checks))
        findings.append(check.finding(subject))
    return findings


def is_stock_too(model: Any) -> bool:
    """Whether an encoding is attached that the model's directory also says in stock terms."""
    attachment = attached(model)
    return attachment is not None and attachment.stock_directory


def _asked_of_stock(model: Any, subject: Subject, findings: list[Finding]) -> list[Finding]:
    """The findings, with those of the stock reading where whorl's does not apply, or leaves its settings out.

    The encoding is taken off the model, which is then what stock transformers load.
    """
    detach(model)
    stock = replace(subject, host=open_host(model))
    both = []
    for check, own in zip(CHECKS, findings, strict=True):
        if own.status == NOT_APPLICABLE or check.ask is settings.length:
            other = check.finding(stock)
            answers = other.status not in (NOT_APPLICABLE, NOT_ASKED)
            if own.status == NOT_APPLICABLE or other.status in (WARN, FAIL):
                own = replace(other, measured=f"as stock reads it: {other.measured}" if answers else other.measured)
        both.append(own)
    return both


def _of_this_model(ids: torch.Tensor, model: Any) -> bool:
    """Whether a directory's tokenizer makes text of two tokens or more out of those that the model has."""
    return len(ids) > 1 and int(ids.max()) < unwrapped(model).config.get_text_config().vocab_size


def encoded(where: Path, text: str) -> torch.Tensor | None:
    """A text in the tokens of the tokenizer in this folder or GGUF file; None where there is none that can be read."""
    names = ("tokenizer_config.json", "tokenizer.json")
    if where.is_dir() and not any((where / name).exists() for name in names):
        return None
    try:
        tokenizer = load_tokenizer(str(where))
        return torch.tensor(tokenizer(text)["input_ids"], dtype=torch.long)
    except Exception:  # of any kind: the files are a stranger's, and the checks that need a text say that there is none
        return None


def _ids_of(text: str | None, model: Any, text_ids: Any, tokenizer: str | None) -> torch.Tensor:
    """A text that was named, or the story, in the tokens of the tokenizer that was named or of the model's own.

    Raises ValueError where there is none.
    """
    if text_ids is not None:
        raise ValueError(
            "text and text_ids say the same in two ways; give one of them"
            if tokenizer is None
            else "text_ids are tokens already, and need no tokenizer; leave one of them out"
        )
    read = texts.TEXT if text is None else "\n".join(read_documents(text))[: texts.ENOUGH]
    if tokenizer is not None:
        given = load_tokenizer(check_path("tokenizer", tokenizer, "a folder, a .gguf file or a hub name"))
        return torch.tensor(given(read)["input_ids"], dtype=torch.long)
    if not isinstance(model, (str, Path)):
        raise ValueError(
            "text needs the tokenizer of a model's directory, and a model object has none; give tokenizer or text_ids"
        )
    ids = encoded(files.tokenizer_of(model), read)
    if ids is None:
        raise ValueError(
            f"text needs the model's own tokenizer, and {model} holds none; give one (--tokenizer; in Python tokenizer)"
        )
    return ids
