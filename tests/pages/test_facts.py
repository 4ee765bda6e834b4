"""What a page says of an encoding is what its effects do on a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.experiments import comparison, shares
from whorl.attaching import attach
from whorl.encodings import REGISTRY, get
from whorl.hosts.transformers.tiny import tiny_model
from whorl.numerics import logits_and_budget, max_error
from whorl.pages import facts, measured, table

ROOT = Path(__file__).parents[2]
FAMILIES = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
EXPERIMENTS = ROOT / "experiments"


def test_what_goes_together() -> None:
    assert facts.goes_with("alibi") == "in a sum with all but `linear`; by layer (`alibi/nope`)."
    assert facts.goes_with("learned").startswith("in a sum with all but others that add to the embedding and `linear`")
    assert facts.goes_with("learned").endswith("not by layer (`learned/nope`).")
    assert facts.goes_with("linear").startswith("in a sum with `frequencies`, `hope`, `nope`,")
    assert "others that rotate q and k, `linear` and `randomized`" in facts.goes_with("path")


def test_what_starts_where_it_changes_nothing_is_found_by_a_forward() -> None:
    said = {name: facts.training(name) for name in ("hope", "t5", "learned-rope", "log-n", "self-extend", "ssmax")}
    assert said["hope"].startswith("a model must be trained with it")
    assert said["t5"].startswith("beside the model's own rotation (`rope+t5`) it starts where nothing changes")
    assert said["learned-rope"].startswith("it starts where a model with RoPE reads as it did")
    assert said["learned-rope"].endswith("It learns 32 numbers for all layers, with 12 heads of 64 channels.")
    assert said["log-n"].startswith("none: a short text reads as it did")
    assert said["self-extend"].startswith("none: it is for a model that was trained with RoPE")
    assert said["ssmax"].endswith("It learns 12 numbers in each layer, with 12 heads of 64 channels.")


def test_what_is_kept_beside_keys_is_counted() -> None:
    assert facts.state_size("fox") == (1, facts.HEADS)
    assert facts.state_size("path") == (facts.CHANNELS + 1 + 3, facts.HEADS)  # w, beta and a share of the rank of 32
    assert facts.state_size("alibi") is None
    assert "one float32 number is kept per head." in facts.caching("fox")
    assert "68 float32 numbers are kept per head, with 12 heads of 64 channels." in facts.caching("path")


@pytest.mark.parametrize("name", [name for name in REGISTRY if get(name).kinds])
@torch.no_grad()
def test_padding_changes_nothing_where_its_page_says_so(name: str) -> None:
    if not facts.of_text(name):
        assert "padding" not in facts.caching(name)
        return
    model = attach(tiny_model("llama"), facts.in_use(name)).eval()
    tokens = torch.randint(3, 97, (2, 40), generator=torch.Generator().manual_seed(0))
    alone, budget = logits_and_budget(model, tokens)
    mask = torch.cat([torch.zeros(2, 7, dtype=torch.long), torch.ones_like(tokens)], 1)
    padded = torch.cat([torch.zeros(2, 7, dtype=torch.long), tokens], 1)
    counted = max_error(model(padded, attention_mask=mask).logits[:, 7:], alone)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    told = max_error(model(padded, attention_mask=mask, position_ids=positions).logits[:, 7:], alone)
    assert told <= budget
    conditional = "with a mask alone, padding on the left moves the text" in facts.caching(name)
    far = "scale" in get(name).kinds  # it is 1 at all of these positions
    assert (counted > budget) == (conditional and not far)


def test_every_encoding_has_a_sentence_on_its_families() -> None:
    taken = table.taken_by(FAMILIES)
    assert {name for name in REGISTRY if facts.of_text(name)} <= taken.keys()
    assert taken["hope"].startswith("35 of 35 decoder families and 2 of 2 encoders")
    assert "not `gemma4_text`, `falcon`, `modernbert`, `bert`" in taken["fox"]
    assert taken["randomized"].startswith("33 of 35 decoder families and 1 of 2 encoders; not `gpt2`, `opt`, `bert`")
    assert taken["window"].startswith("all families but `gemma4_text` as `rope+window:size=8/nope`")
    assert taken["hope-2d"] == "8 of 8 families of image models ([which](../families.md))."
    assert taken["pape"].endswith("And 8 of 8 families of image models ([which](../families.md)).")
    assert (table.in_stock_terms(FAMILIES, "hope"), table.in_stock_terms(FAMILIES, "fox")) == (33, 0)


def test_what_a_decoder_of_text_does_not_take_says_why() -> None:
    assert facts.goes_with("spe") == (
        "a decoder of text does not take it: spe goes by neighbours on all sides, and in a decoder a token sees those "
        "before it alone."
    )
    assert "spe" not in facts.goes_with("linear")
    assert facts.training("spe").startswith("a model must be trained with it. It learns")
    assert facts.caching("spe").startswith("there is no cache")


def test_what_was_measured_is_read_from_committed_results() -> None:
    found = measured.comparisons(EXPERIMENTS)
    (line, *others) = measured.told("hope", found, EXPERIMENTS)
    assert line.startswith(
        "text, trained at 128 tokens (3 seeds), tail perplexity at 128, 512, 2,048: `hope` 19.9, 27.3, 46.6 "
        "(`rope` 20.2, 50.3, 77.0) [0001-language](../../experiments/0001-language/report.md) (also in [0009-"
    )
    assert not [one for one in others if one.startswith("text, trained at 128 tokens")], "of one setting once"
    assert "3 seeds" in next(one for one in measured.told("fox", found, EXPERIMENTS) if "`rope+fox`" in one)
    (line,) = measured.told("linear", found, EXPERIMENTS)
    assert "`linear` 31.5, 41.0, 49.6; `rope+linear` 24.8, 44.2, 62.9 (`rope` 20.2, 49.9, 78.1)" in line
    assert not measured.told("rope+linear", found, EXPERIMENTS)
    rows, others = measured.mentioned("rerope", "ReRoPE and Leaky ReRoPE", ROOT / "docs", EXPERIMENTS)
    assert rows == ["[extend](../extend.md)"]
    assert not others


def test_what_was_measured_of_images_and_points_is_told_in_their_units(tmp_path: Path) -> None:
    """Images have no four training lengths: the longest stands in. A task may have arguments."""
    right = {"axial-rope": 0.8, "hope-2d": 0.9}
    images = {name: [shares(share, 0.4, key="accuracy", unit=48)] for name, share in right.items()}
    points = {"spe:codes=z": [shares(0.9, 0.8, 0.7, key="accuracy", unit=64)]}
    for folder, trials, task, lengths, unit in (
        ("0001-images", images, "images", [48, 96], "pixels"),
        ("0002-points", points, "points:turned=z", [64, 128, 256], "points"),
    ):
        data = {"task": folder[5:], "version": 1, "vocab_size": 34, "unit": unit}
        comparison(tmp_path / folder / "some", trials, task, train_length=lengths[0], lengths=lengths, data=data)
    found = measured.comparisons(tmp_path)
    assert measured.told("hope-2d", found, tmp_path) == [
        "images, trained at 48 pixels (1 seed), accuracy at 48, 96: `hope-2d` 90.0 %, 40.0 % "
        "(`axial-rope` 80.0 %, 40.0 %) [0001-images/some](../../experiments/0001-images/some/README.md)"
    ]
    (line,) = measured.told("spe", found, tmp_path)
    assert line.startswith(
        "points:turned=z, trained at 64 points (1 seed), accuracy at 64, 256: `spe:codes=z` 90.0 %, 70.0 %"
    )


def test_less_of_the_same_is_told_by_its_place_alone(tmp_path: Path) -> None:
    """Fewer seeds of encodings that another study has; not one that has an encoding more."""
    at = {"train_length": 64, "lengths": [64, 128]}
    for study, names, seeds in (
        ("0001-few", ["fox"], 1),
        ("0002-many", ["fox"], 3),
        ("0003-more", ["fox", "rope+fox"], 2),
    ):
        comparison(tmp_path / study, {name: [shares(0.9, 0.5, unit=64)] * seeds for name in names}, "recall", **at)
    many, more = measured.told("fox", measured.comparisons(tmp_path), tmp_path)
    assert "(3 seeds)" in many
    assert "(2 seeds)" in more
    assert "`rope+fox`" in more
    assert [("0001-few" in line) for line in (many, more)] == [True, False]
    assert "(also in [0001-few]" in many


def test_seeds_are_those_of_the_encoding_and_not_of_the_study(tmp_path: Path) -> None:
    """Values of one seed were told as those of as many as another encoding beside it had."""
    at = {"train_length": 64, "lengths": [64, 128]}
    trials = {"kerple": [shares(0.9, 0.5, unit=64)], "rope": [shares(0.9, 0.5, unit=64)] * 2}
    comparison(tmp_path / "0001-text", trials, "recall", **at)
    (line,) = measured.told("kerple", measured.comparisons(tmp_path), tmp_path)
    assert "64 tokens (1 seed), " in line
    assert "(`rope` (2 seeds) 90.0 %, 50.0 %)" in line
    (line,) = measured.told("rope", measured.comparisons(tmp_path), tmp_path)
    assert "64 tokens (2 seeds), " in line
    assert ": `rope` 90.0 %, 50.0 % [" in line


def test_what_is_read_under_another_encoding_than_it_was_trained_with_is_of_neither(tmp_path: Path) -> None:
    trials = {name: [shares(0.9, 0.5, unit=64)] for name in ("rope", "rope then rope~yarn:factor=4")}
    comparison(tmp_path / "0001-text", trials, "recall", train_length=64, lengths=[64, 128])
    (line,) = measured.told("rope", measured.comparisons(tmp_path), tmp_path)
    assert "`rope` 90.0 %, 50.0 %" in line
    assert " then " not in line
