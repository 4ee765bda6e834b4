"""The retrieval tasks: each sequence follows its definition, written out here, and their parts are told apart."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import whorl
from whorl.reports.comparison.words import findings
from whorl.results.trial import Row
from whorl.tasks import decoy, following, mqar, niah_tiny
from whorl.tasks.base import IGNORED
from whorl.tasks.flip_flop import IGNORE, READ, WRITE, ZERO
from whorl.tasks.graded import BOS, PAD, SEP, SPECIAL

from ..comparison.small_runs import SMALL
from .table import build


def evaluated(task, length):
    """(ids, labels) as lists, of each evaluation sequence."""
    return [(ids.tolist(), labels.tolist()) for ids, labels in zip(*task.evaluation_set(length), strict=True)]


def trained(task, count=200):
    items = task.training_set(seed=0, examples=count)
    return [(items[i]["input_ids"].tolist(), items[i]["labels"].tolist()) for i in range(count)]


# Fixed offset


def is_offset(ids, labels, back):
    """Asserts the definition of a sequence of whole items."""
    x, y = ids[1::2], ids[2::2]
    assert ids[0] == BOS
    assert y == [SEP] * back + x[: len(y) - back]
    assert labels[::2] == [IGNORED] * (1 + back) + y[back:]
    assert set(labels[1::2]) == {IGNORED}


@pytest.mark.parametrize("back", [1, 4])
def test_fixed_offset_repeats_what_stood_before(back):
    task = build(f"fixed-offset:back={back}", lengths=(63, 96), windows=4)
    for ids, labels in evaluated(task, 63) + [(ids[:63], labels[:63]) for ids, labels in trained(task, 20)]:
        is_offset(ids, labels, back)
    for ids, labels in evaluated(task, 96):
        is_offset(ids[:95], labels[:95], back)
        assert (ids[95], labels[95]) == (PAD, IGNORED)


# Flip-flop


def is_flip_flop(ids, labels):
    """Asserts the definition; gives the instructions."""
    end = 1 + 2 * ((len(ids) - 1) // 2)
    said, bits = ids[1:end:2], ids[2:end:2]
    assert (said[0], said[-1]) == (WRITE, READ)
    assert set(said) <= {WRITE, READ, IGNORE}
    kept, expected = None, [IGNORED] * len(ids)
    for i, (what, bit) in enumerate(zip(said, bits, strict=True)):
        assert bit in (ZERO, ZERO + 1)
        if what == WRITE:
            kept = bit
        elif what == READ:
            assert bit == kept
            expected[2 + 2 * i] = bit
    assert labels == expected
    assert ids[end:] == [PAD] * (len(ids) - end)
    return said


def test_flip_flop_spreads_its_events_over_a_longer_sequence():
    task = build("flip-flop", train_length=129, lengths=(129, 1025), windows=60)
    events = {}
    for length in (129, 1025):
        said = [is_flip_flop(*pair) for pair in evaluated(task, length)]
        events[length] = np.mean([sum(what != IGNORE for what in one) for one in said])
    assert events[129] == pytest.approx(2 + 62 * 0.2, rel=0.1)
    assert events[1025] == pytest.approx(2 + 510 * 0.2 * 129 / 1025, rel=0.1)
    for pair in trained(task, 20):
        is_flip_flop(*pair)


# Segment copy


@pytest.mark.parametrize(("segment", "cue"), [(16, 4), (8, 1)])
def test_segment_copy_asks_for_the_rest_of_a_segment(segment, cue):
    task = build(f"segment-copy:segment={segment},cue={cue}", windows=6)
    for length in task.settings.lengths:
        for ids, labels in evaluated(task, length):
            assert ids[0] == BOS
            assert ids[1 : 1 + segment] == ids[-segment:]
            assert labels == [IGNORED] * (length - segment + cue) + ids[-segment + cue :]
    sizes, starts = set(), set()
    for ids, labels in trained(task, 300):
        size = sum(label != IGNORED for label in labels) + cue
        places = [i for i in range(1, len(ids) - 2 * size + 1) if ids[i : i + size] == ids[-size:]]
        assert places, "the segment stands before"
        assert labels == [IGNORED] * (len(ids) - size + cue) + ids[-size + cue :]
        sizes.add(size)
        starts.add(places[0])
    assert sizes >= set(range(cue + 1, 29))
    assert len(starts) > 30


# Following


def is_following(ids, labels):
    """Asserts the definition; gives (items, showings, noise, questions, whether the first states each pair twice)."""
    separator = ids.index(SEP)
    noise_from = SPECIAL + following.KEYS + following.VALUES
    noise = sum(s >= noise_from for s in ids[1:separator])
    shown = ids[1 : separator - noise]
    assert all(s < noise_from for s in shown), "noise stands behind the showings"
    pairs = list(zip(shown[::2], shown[1::2], strict=True))
    mapping = dict(pairs)
    items = len(mapping)
    assert len(set(mapping.values())) == items
    expected = [IGNORED] * len(ids)
    twice = labels[3] != IGNORED
    if twice:
        first, pairs = pairs[: 2 * items], pairs[items:]
        assert first[::2] == first[1::2]
        pairs[:items] = first[::2]
        for i in range(3, 1 + 4 * items, 4):
            expected[i : i + 2] = ids[i : i + 2]
    for start in range(0, len(pairs), items):
        assert sorted(pairs[start : start + items]) == sorted(mapping.items()), "each showing has every key once"
    questions = (len(ids) - separator - 1) // 2
    end = separator + 1 + 2 * questions
    asked, answers = ids[separator + 1 : end : 2], ids[separator + 2 : end : 2]
    assert answers == [mapping[key] for key in asked]
    assert ids[end:] == [PAD] * (len(ids) - end)
    expected[separator + 2 : end : 2] = answers
    assert labels == expected
    return items, len(pairs) // items, noise, questions, twice


def test_following_shows_the_mapping_as_often_as_fits_or_as_is_said():
    task = build("following", lengths=(64, 256))
    for length, shots in ((64, 5), (256, 29)):
        for pair in evaluated(task, length):
            assert is_following(*pair) == (4, shots, length - 2 - 16 - 8 * shots, 8, False)
    twice = build("following:shots=2", lengths=(64, 256))
    for length in (64, 256):
        for pair in evaluated(twice, length):
            assert is_following(*pair) == (4, 2, length - 2 - 16 - 16, 8, False)


def test_following_trains_on_every_number_of_items_and_showings_and_asks_to_the_end():
    found = [is_following(*pair) for pair in trained(build("following"), 400)]
    assert {(items, twice) for items, *_, twice in found} == {
        (n, twice) for n in (1, 2, 3, 4) for twice in (False, True)
    }
    assert {shots for items, shots, *_ in found if items == 4} == {1, 2, 3, 4, 5}
    assert {noise for _, _, noise, *_ in found} >= set(range(15))
    assert min(questions for *_, questions, _ in found) == 8


# MQAR


def is_mqar(ids, labels, symbols=16):
    """Asserts the definition of an evaluation sequence; gives its pairs and the slots that are asked in."""
    first_value, first_noise = SPECIAL + symbols, SPECIAL + 2 * symbols
    pairs = next(i for i in range(1, len(ids), 2) if not (ids[i] < first_value <= ids[i + 1] < first_noise)) // 2
    stated = 1 + 2 * pairs
    mapping = dict(zip(ids[1:stated:2], ids[2:stated:2], strict=True))
    assert ids[0] == BOS
    assert len(mapping) == len(set(mapping.values())) == pairs
    asked = [i for i in range(stated, len(ids)) if ids[i] < first_noise]
    assert sorted(ids[i] for i in asked) == sorted(mapping), "each key is asked for once, and no value stands again"
    assert all((i - stated) % 2 == 0 for i in asked)
    assert all(labels[i + 1] == mapping[ids[i]] for i in asked)
    assert sum(label != IGNORED for label in labels) == pairs
    return pairs, [(i - stated) // 2 for i in asked]


def test_mqar_grows_by_its_gap_or_by_its_load():
    for notation, pairs in (("mqar", (4, 4)), ("mqar:grows=load,symbols=32", (4, 16))):
        task = build(notation, lengths=(64, 256))
        for length, expected in zip((64, 256), pairs, strict=True):
            found = {is_mqar(*pair, 32 if "load" in notation else 16)[0] for pair in evaluated(task, length)}
            assert found == {expected}
            assert task.chance(length)["token_accuracy"] == 1 / expected
    with pytest.raises(ValueError, match="has 32 pairs at 512 tokens and 16 keys; try symbols=32"):
        build("mqar:grows=load", lengths=(64, 512))
    with pytest.raises(ValueError, match="the mqar task has 65 tokens or more, got 64"):
        build("mqar:pairs=16")


def test_mqar_trains_on_all_numbers_of_pairs_and_half_of_the_slots():
    found = set()
    for ids, labels in trained(build("mqar")):
        twice = labels[3] != IGNORED
        if twice:
            stated = [i for i in range(3, 64, 4) if labels[i] == ids[i] == ids[i - 2]]
            mapping = {ids[i]: ids[i + 1] for i in stated}
            assert all(ids[i - 2 : i] == ids[i : i + 2] == labels[i : i + 2] for i in stated)
            pairs, begins = len(stated), 1 + 4 * len(stated)
        else:
            pairs = next(i for i in range(1, 64, 2) if ids[i] >= SPECIAL + 16 or ids[i + 1] >= SPECIAL + 32) // 2
            begins = 1 + 2 * pairs
            mapping = dict(zip(ids[1:begins:2], ids[2:begins:2], strict=True))
        asked = [i for i in range(begins, 64) if labels[i] != IGNORED]
        assert len(asked) == (64 - begins) // 2 // 2
        assert all(labels[i] == mapping[ids[i - 1]] and ids[i] >= SPECIAL + 32 for i in asked)
        found.add((pairs, twice))
    assert found == {(pairs, twice) for pairs in (1, 2, 3, 4) for twice in (False, True)}


def test_mqar_asks_where_the_paper_does():
    """Slot g has a probability that goes as (g + 1)^(alpha - 1): the official value for 64 tokens and 8 pairs."""
    assert mqar.probabilities(24, 0.01)[0] == pytest.approx(0.26130548)
    assert mqar.probabilities(24, 1.0).tolist() == pytest.approx([1 / 24] * 24)
    task = build("mqar:pairs=8,alpha=0.01", lengths=(65,), windows=600)
    slots = [is_mqar(*pair)[1] for pair in evaluated(task, 65)]
    assert all(0 <= slot < 24 for asked in slots for slot in asked)
    first = np.mean([0 in asked for asked in slots])
    alone = np.mean([23 in asked for asked in slots])
    assert first > 0.9 > 0.35 > alone, "mostly right behind the pairs"


def test_mqar_is_as_pinned(task_pins):
    pinned = task_pins["mqar"]["L=64,K=8: first query slot probability (a=.01)"]
    assert mqar.probabilities(task_pins["mqar"]["slots"], 0.01)[0] == pytest.approx(pinned)


def test_mqar_tells_near_from_far():
    task = build("mqar", windows=50)
    _, labels = task.evaluation_set(96)
    places = torch.arange(96)
    predicted = torch.where(places < 9 + 2 * 15, labels, 0)  # right in the first third of the 43 slots
    row = task.graded(96, predicted, labels)
    assert (row.values["near"], row.values["far"]) == (1.0, 0.0)
    assert 0 < row.values["token_accuracy"] < 1
    asked = labels != IGNORED
    pieces = task.pieces(asked)
    assert torch.equal(sum(piece.int() for piece in pieces.values()), asked.int()), "each target is in one third"
    assert all(piece.any() for piece in pieces.values())


# Decoy


def is_decoy(ids, labels, decoys):
    """Asserts the definition of an evaluation sequence."""
    length = len(ids)
    name, value = ids[1:3]
    assert ids[3:5] == ids[-2:] == [name, value]
    assert labels == [IGNORED] * (length - 1) + [value]
    begin = length - 3 - decoy.NEAR - 4 * decoys
    others = [ids[i : i + 4] for i in range(begin, begin + 4 * decoys, 4)]
    assert all(other[:2] == other[2:] for other in others)
    names, values = {name, *(other[0] for other in others)}, {value, *(other[1] for other in others)}
    assert len(names) == len(values) == 1 + decoys
    assert decoy.NAME <= min(names) <= max(names) < decoy.VALUE <= min(values)
    assert ids[length - 3] == SEP
    noise = ids[5:begin] + ids[begin + 4 * decoys : length - 3]
    assert min(noise) >= decoy.VALUE + decoy.VALUES


@pytest.mark.parametrize("decoys", [1, 3])
def test_decoy_puts_statements_of_the_same_form_near_the_question(decoys):
    task = build(f"decoy:decoys={decoys}", lengths=(64, 200))
    for length in (64, 200):
        for pair in evaluated(task, length):
            is_decoy(*pair, decoys)


def test_decoy_trains_on_every_place_and_every_statement():
    task, recent, told, first, both, counts = build("decoy"), 0, 0, 0, set(), set()
    for ids, labels in trained(task, 400):
        separator = ids.index(SEP)
        begins = [i for i in range(separator) if decoy.NAME <= ids[i] < decoy.VALUE]
        asked = [i for i in range(separator, len(ids)) if labels[i] != IGNORED]
        begins, again = begins[::2], begins[1::2]
        assert again == [i + 2 for i in begins], "each stands twice in a row"
        for i in again:
            assert ids[i - 2 : i] == ids[i : i + 2] == labels[i : i + 2]
        mapping = {ids[i]: ids[i + 1] for i in begins}
        assert 1 <= len(mapping) == len(begins) <= 4
        assert sum(label != IGNORED for label in labels) == len(asked) + 2 * len(again)
        assert asked == list(range(separator + 2, len(ids), 2))
        assert all(labels[i] == ids[i] == mapping[ids[i - 1]] for i in asked)
        together = begins == list(range(1, 4 * len(begins), 4))
        both.add((len(mapping), together))
        first += together
        counts.add(len(asked))
        if len(begins) == 2:
            recent += ids[asked[0] - 1] == ids[begins[-1]]
            told += 1
    assert both == {(n, together) for n in (1, 2, 3, 4) for together in (False, True)}
    assert 0.45 < first / 400 < 0.65, "half of the sequences begin with their statements, and others by chance"
    assert 0.35 < recent / told < 0.65, "the nearest of two is right half of the time"
    assert min(counts) == decoy.QUESTIONS, "and any number that fits"
    assert max(counts) > len(ids) // 2 - 8


class Prefers(torch.nn.Module):
    """Gives the right value a logit of `right`, the decoy 1 and some other symbol `other`, at every place."""

    def __init__(self, task, right, other):
        super().__init__()
        self.task, self.right, self.other = task, right, other

    def forward(self, input_ids, use_cache):
        logits = torch.full((*input_ids.shape, self.task.vocab_size), -9.0)
        for row, ids in zip(logits, input_ids, strict=True):
            place = len(ids) - 3 - decoy.NEAR - 1  # the last decoy's second value
            row[:, ids[2]], row[:, ids[place]], row[:, 0] = self.right, 1.0, self.other
        return type("Output", (), {"logits": logits})


@pytest.mark.parametrize(("right", "other", "values"), [(3.5, 0, (1, 1)), (3.5, 9, (1, 0)), (-0.5, 0, (0, 0))])
def test_decoy_asks_which_value_is_likelier_and_by_how_much(right, other, values):
    task = build("decoy", windows=6)
    row = task.evaluate(Prefers(task, right, other), 96, batch_tokens=200)
    assert (row.values["prefers"], row.values["token_accuracy"]) == values
    assert row.values["odds"] == pytest.approx(math.exp(right - 1))
    assert row.samples == (values[0],) * 6
    nothing = task.evaluate(Prefers(task, math.nan, other), 96)
    assert all(map(math.isnan, (*nothing.values.values(), nothing.stderr)))


# A needle in a haystack


def is_needle(ids, labels, needles):
    """Asserts the definition; gives where the needle that is asked for stands in the filler, of so many tokens."""
    separator = ids.index(SEP)
    places = [i for i in range(separator) if ids[i] == niah_tiny.NEEDLE]
    assert ids[0] == BOS
    assert len(places) == needles
    keys = [ids[i + 1] for i in places]
    assert len(set(keys)) == needles
    inside = {j for i in places for j in range(i, i + niah_tiny.SIZE)}
    filler = [ids[i] for i in range(1, separator) if i not in inside]
    follows = {a: set((niah_tiny.WALK + niah_tiny.FOLLOWS[a - niah_tiny.WALK]).tolist()) for a in filler}
    assert all(b in follows[a] for a, b in pairwise(filler))
    end = separator + 1 + niah_tiny.SIZE
    asked = ids[separator + 1 : end]
    (needle,) = [i for i in places if ids[i + 1] == asked[1]]
    assert ids[needle : needle + niah_tiny.SIZE] == asked
    assert ids[end:] == [PAD] * (len(ids) - end)
    expected = [IGNORED] * len(ids)
    expected[separator + 3 : end] = asked[2:]
    assert labels == expected
    return sum(1 <= i < needle and i not in inside for i in range(separator)), len(filler)


@pytest.mark.parametrize("needles", [1, 3])
def test_needles_stand_at_every_depth(needles):
    task = build(f"niah-tiny:needles={needles}", lengths=(64, 128), windows=9)
    for length in (64, 128):
        found = [is_needle(*pair, needles) for pair in evaluated(task, length)]
        filler = length - 2 - niah_tiny.SIZE * (needles + 1)
        assert found == [(round(i / 8 * filler), filler) for i in range(9)]
    found = [is_needle(*pair, needles) for pair in trained(task)]
    assert len({filler for _, filler in found}) > 25
    shares = [depth / filler for depth, filler in found if filler]
    assert 0.4 < np.mean(shares) < 0.6
    assert min(shares) < 0.05
    assert max(shares) > 0.95


def test_needles_are_told_apart_by_depth():
    task = build("niah-tiny", windows=9)
    labels = task.evaluation_set(96)[1]
    predicted = labels.clone()
    predicted[6:] = 0
    values = task.graded(96, predicted, labels).values
    assert [values[third] for third in niah_tiny.THIRDS] == [1.0, 1.0, 0.0]
    assert values["token_accuracy"] == pytest.approx(6 / 9)


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ("mqar:grows=up", "grows must be one of 'gap', 'load', got 'up'"),
        ("mqar:alpha=0", "alpha must be finite and above 0"),
        ("decoy:decoys=16", "decoys must be at most 15"),
        ("niah-tiny:needles=17", "needles must be at most 16"),
        ("following:items=17", "items must be at most 16"),
        ("following:shots=-1", "shots must be a whole number of at least 1, got -1, or 0 for as many as fit"),
        ("following:items=8,shots=4", "the following task has 82 tokens or more, got 64; try --train-length 164"),
        ("segment-copy:cue=16", "cue must be below segment, 16"),
        ("fixed-offset:back=0", "back must be a whole number of at least 1, got 0"),
        ("flip-flop:ignore=1", "ignore must be a share from 0 to below 1, got 1"),
    ],
)
def test_what_makes_no_sequence_is_refused(notation, message):
    with pytest.raises(ValueError, match=message):
        build(notation)


def test_a_report_tells_odds_as_a_number_and_shares_in_percent(tmp_path):
    run = SMALL | {"train_length": 64, "tokens": 512, "task": "decoy", "out": tmp_path / "run"}
    found = whorl.compare(["rope"], **run)
    assert (
        "odds of the right value against the decoy's (log scale, higher is better)"
        in (tmp_path / "run" / "report.html").read_text()
    )
    values = {"prefers": 1.0, "token_accuracy": 0.75, "odds": 7.5}
    rows = tuple(Row(length, values, sequences=4, samples=(1.0,) * 4) for length in (64, 128))
    learnt = replace(found, trials=tuple(replace(trial, evaluations={"decoy": rows}) for trial in found.trials))
    ((_, said),) = findings(learnt)["decoy"].bullets
    assert "learnt the task in range, 100.0 % of the statements right at 64 tokens" in said
    assert "(token accuracy 75.0 %, odds of the right value against the decoy's 7.50)" in said
