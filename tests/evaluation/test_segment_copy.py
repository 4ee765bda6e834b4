"""Segment copy: what stands where, and what a model that copies, or one that cannot, scores."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.evaluation import VOCABULARY, answering, looks_up, material
from whorl.evaluation.segment_copy import SEGMENT, SegmentCopy


def test_the_segment_stands_at_both_ends_and_its_tokens_are_of_the_text(text: Path) -> None:
    found = material(text)
    probe = SegmentCopy(found)
    for length in (2 * SEGMENT + 1, 200, 256):
        ids = probe.sequence(length, 1)
        assert ids.shape == (length,)
        assert ids[0] == found.tokenizer.bos_token_id
        assert torch.equal(ids[1 : 1 + SEGMENT], ids[-SEGMENT:])
        assert len(set(ids[-SEGMENT:].tolist())) == SEGMENT
        assert set(ids[-SEGMENT:].tolist()) <= set(found.windows.flatten().tolist())
        assert not set(ids[1:].tolist()) & set(found.tokenizer.all_special_ids)
    between = probe.sequence(200, 1)[1 + SEGMENT : -SEGMENT]
    assert between.tolist() == probe.sequence(256, 1)[1 + SEGMENT : len(between) + 1 + SEGMENT].tolist()
    assert torch.equal(probe.sequence(200, 1)[-SEGMENT:], probe.sequence(256, 1)[-SEGMENT:]), "at every length"
    assert not torch.equal(probe.sequence(200, 0)[-SEGMENT:], probe.sequence(200, 1)[-SEGMENT:])
    with pytest.raises(ValueError, match="32 tokens do not hold a segment of 16 tokens twice"):
        probe.sequence(32, 0)


def test_a_model_that_looks_up_four_tokens_copies_as_far_as_it_looks(text: Path) -> None:
    probe = SegmentCopy(material(text))
    told: list[int] = []
    model = answering(looks_up(4, reach=150))
    near = probe.measure(model, 100, told.append).row
    assert (near.values["accuracy"], near.sequences, sum(told)) == (1.0, 4, probe.steps)
    assert near.values["after_one"] < 1, "it takes four tokens to look up"
    assert near.values["loss"] < 0.01 < near.values["unseen"]
    far = probe.measure(model, 250, told.append).row
    assert far.values["accuracy"] == 0
    assert far.values["loss"] == pytest.approx(math.log(VOCABULARY), rel=1e-3), "every token is as likely"
    assert far.samples == (0.0,) * 4


def test_without_bos_the_segment_begins_the_sequence(text: Path) -> None:
    probe = SegmentCopy(material(text, bos=False))
    ids = probe.sequence(256, 0)
    assert ids.shape == (256,)
    assert torch.equal(ids[:SEGMENT], ids[-SEGMENT:])
    row = probe.measure(answering(looks_up(4)), 100, lambda done: None).row
    assert row.values["accuracy"] == 1
    assert row.values["unseen"] == pytest.approx(math.log(VOCABULARY), rel=1e-3), "nothing stands before"


def test_a_text_of_few_tokens_is_refused(text: Path) -> None:
    found = material(text)
    few = type(found)(found.tokenizer, found.windows[:, :4].clone(), 4, 8, 0)
    with pytest.raises(ValueError, match="16 different tokens of the text, which has"):
        SegmentCopy(few)


def test_what_is_not_finite_is_not_right(text: Path) -> None:
    model = answering(looks_up(4))
    inner = model.forward

    def broken(**kwargs: object) -> object:
        out = inner(**kwargs)
        out.logits = out.logits + torch.nan
        return out

    model.forward = broken
    row = SegmentCopy(material(text)).measure(model, 100, lambda done: None).row
    assert math.isnan(row.values["accuracy"])
