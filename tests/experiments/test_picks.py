"""Which encoding to take, of made-up comparisons: no claim without all seeds, none behind but by what is resolved."""

from __future__ import annotations

from pathlib import Path

from tests.experiments import comparison, perplexities, script, shares

evidence, picks, claims = script("evidence"), script("picks"), script("claims")
PART = "0009-extrapolation/language"
LONG = claims.Need("read on", {"language": (PART,)}, 4)


def pick(root: Path, need: claims.Need = LONG, task: str = "language", most: int | None = None) -> picks.Pick:
    return picks.pick(evidence.Known(root), task, need, most)


def test_the_best_and_what_is_not_resolved_from_it(tmp_path: Path) -> None:
    trials = {
        "rope": [perplexities(20, 30, 50), perplexities(20, 30, 52), perplexities(20, 30, 51)],
        "hope": [perplexities(20, 25, 30), perplexities(20, 25, 31), perplexities(20, 25, 30)],
        "fire": [perplexities(20, 25, 29), perplexities(20, 25, 33), perplexities(20, 25, 31)],
        "fox": [perplexities(18, 18, 18), None, None],
        "t5": [perplexities(18, 18, 17), perplexities(18, 18, float("nan")), perplexities(18, 18, 17)],
        "cope": [perplexities(18, 18, 17), perplexities(18, 18, 17), None],
        "nope": [perplexities(400, 400, 1)] * 3,
    }
    unigram = [{"length": length, "tail": 375.0} for length in (128, 256, 512)]
    data = {"task": "language", "version": 1, "vocab_size": 64, "unigram": unigram}
    failures = [{"id": "cope-s2", "notation": "cope", "seed": 2, "error": "killed"}]
    comparison(tmp_path / "experiments" / PART, trials, data=data, failures=failures)
    found = pick(tmp_path)
    assert found.best == ("hope", "fire")
    told = (
        "tail perplexity at 4x, three seeds: `hope` 30.3 (20.0 at 1x) and `fire` 31.0 (20.0 at 1x); "
        "behind: `rope` 51.0 (20.0 at 1x); "
    )
    assert (
        told + "a seed failed, diverged or did not learn: no claim (`t5` 17.0 (18.0 at 1x) and `cope` 17.0 "
        "(18.0 at 1x)); one seed: no claim (`fox` 18.0 (18.0 at 1x)); did not learn it: `nope` ([0009" in found.words
    )
    assert found.measured == "tail perplexity at 4x, three seeds"
    assert found.every == (
        ("`hope`", "30.3 (20.0 at 1x)", "to take"),
        ("`fire`", "31.0 (20.0 at 1x)", "to take"),
        ("`rope`", "51.0 (20.0 at 1x)", "behind"),
        ("`t5`", "17.0 (18.0 at 1x)", "a seed failed, diverged or did not learn: no claim"),
        ("`cope`", "17.0 (18.0 at 1x)", "a seed failed, diverged or did not learn: no claim"),
        ("`fox`", "18.0 (18.0 at 1x)", "one seed: no claim"),
        ("`nope`", "", "did not learn it"),
    )
    page = script("found").page(evidence.Known(tmp_path))
    table = page.partition("To train from scratch, short contexts (")[2].partition("</details>")[0]
    assert "| encoding | value | said of it |\n" in table
    shorter = pick(tmp_path, most=1).words
    assert "and 1 more; behind: `rope` 51.0 (20.0 at 1x); did not learn it: `nope` (" in shorter


def test_what_a_model_is_read_with_besides_counts_past_its_training_length_alone(tmp_path: Path) -> None:
    trials = {
        "rope": [perplexities(20, 30, 50 + seed) for seed in range(3)],
        "hope": [perplexities(22, 25, 40 + seed) for seed in range(3)],
        "hope then hope~yarn:factor=4": [perplexities(19, 20, 30 + seed) for seed in range(3)],
    }
    comparison(tmp_path / "experiments" / PART, trials)
    assert pick(tmp_path).best == ("hope then hope~yarn:factor=4",)
    in_range = pick(tmp_path, claims.Need("read", {"language": (PART,)}, 1))
    assert in_range.best == ("rope",)
    assert "then" not in in_range.words


def test_of_many_behind_the_first_are_named(tmp_path: Path) -> None:
    trials = {f"hope:cut={n}": [perplexities(20, 25, 30 * n + seed) for seed in range(3)] for n in (1, 2, 3)}
    comparison(tmp_path / "experiments" / PART, trials)
    assert "behind: `hope:cut=2` 61.0 (20.0 at 1x) and `hope:cut=3` 91.0 (20.0 at 1x) (" in pick(tmp_path).words
    assert "behind: `hope:cut=2` 61.0 (20.0 at 1x) and 1 more (" in pick(tmp_path, most=1).words


def test_what_no_seed_resolves_is_told_apart_in_the_table(tmp_path: Path) -> None:
    trials = {
        "hope": [perplexities(20, 25, 30), perplexities(20, 25, 31), perplexities(20, 25, 30)],
        "path": [perplexities(20, 25, 31), perplexities(20, 25, 90), perplexities(20, 25, 45)],
        "rope": [perplexities(20, 25, 90), perplexities(20, 25, 92), perplexities(20, 25, 91)],
    }
    comparison(tmp_path / "experiments" / PART, trials)
    assert [said for _, _, said in pick(tmp_path).every] == ["to take", "behind, but not resolved", "behind"]


def test_the_value_in_range_stands_once(tmp_path: Path) -> None:
    """Not beside itself, and not of a task that whoever learnt it has nearly all right of in range."""
    trials = {"rope": [perplexities(20, 25, 50)] * 2, "hope": [perplexities(20, 25, 30)] * 2}
    comparison(tmp_path / "experiments" / PART, trials)
    near = pick(tmp_path, claims.Need("read", {"language": (PART,)}, 1)).words
    assert "tail perplexity at 1x, two seeds: `rope` 20.0 and `hope` 20.0 (" in near
    comparison(tmp_path / "experiments" / "0010-awareness" / "mqar", {"rope": [shares(1, 1, 0.2)] * 2}, "mqar")
    found = pick(tmp_path, claims.Need("find", {"mqar": ("0010-awareness/mqar",)}, 4), "mqar").words
    assert "20.0 %" in found
    assert "at 1x" not in found


def test_what_is_far_off_is_not_taken_though_no_seed_resolves_it(tmp_path: Path) -> None:
    trials = {
        "hope": [shares(1, 1, 1)] * 2,
        "rope": [shares(1, 1, 0.2), shares(1, 1, 0.5)],
        "fox": [shares(1, 1, 0.99)] * 2,
    }
    comparison(tmp_path / "experiments" / "0010-awareness" / "mqar", trials, "mqar")
    found = pick(tmp_path, claims.Need("find", {"mqar": ("0010-awareness/mqar",)}, 4), "mqar")
    assert found.best == ("hope",)
    assert "`hope` 100.0 %; behind: `fox` 99.0 %; behind, but not resolved: `rope` 35.0 %" in found.words


def test_studies_of_the_same_settings_are_read_as_one(tmp_path: Path) -> None:
    """Of three seeds here and two there the best is best on the seeds of both; one encoding counts with the study in
    which it is whole; a study of other settings is named and not mixed in."""
    main, other = PART, "0013-content/language"
    trials = {
        "rope": [perplexities(20, 30, 50), perplexities(20, 30, 52), perplexities(20, 30, 90)],
        "hope": [perplexities(20, 25, 40), perplexities(20, 25, 41), perplexities(20, 25, 10)],
        "fox": [perplexities(18, 18, 19), None, None],
    }
    comparison(tmp_path / "experiments" / main, trials)
    content = {
        "rope": trials["rope"][:2],
        "path": [perplexities(21, 25, 27), perplexities(21, 25, 27.2)],
        "fox": [perplexities(18, 18, 19), perplexities(18, 18, 19.2)],
        "fire": [perplexities(18, 18, 18), None],
    }
    comparison(tmp_path / "experiments" / other, content)
    need = claims.Need("read on", {"language": (main, other)}, 4)
    found = pick(tmp_path, need)
    assert found.best == ("fox",)
    assert "tail perplexity at 4x, two seeds: `fox` 19.1 (18.0 at 1x); behind: `path` 27.1 (21.0 at 1x)" in found.words
    assert "`hope` 40.5" in found.words, "on the seeds of both, though it has a third"
    assert "one seed: no claim (`fire` 18.0 (18.0 at 1x))" in found.words
    assert "0009-extrapolation/language/report.md) and [0013-content]" in found.words

    trials["fox"] = [trials["fox"][0], None, perplexities(18, 18, float("nan"))]
    comparison(tmp_path / "experiments" / main, trials)
    found = pick(tmp_path, need)
    assert found.best == ("path",), "a seed of fox diverged, though it has all of those of the other study"
    assert (
        "one seed: no claim (`fire` 18.0 (18.0 at 1x)); a seed failed, diverged or did not learn: no claim (`fox` 1"
        in found.words
    )

    comparison(tmp_path / "experiments" / other, content, tokens=2)
    found = pick(tmp_path, need)
    assert found.best == ("fox",)
    assert "of other settings or seeds, and not in this row: [0009-extrapolation]" in found.words
    assert "hope" not in found.words


def test_one_seed_is_no_claim(tmp_path: Path) -> None:
    comparison(tmp_path / "experiments" / PART, {name: [perplexities(20, 20, 20)] for name in ("rope", "hope")})
    found = pick(tmp_path)
    assert found.best == ()
    assert found.words.startswith("tail perplexity at 4x, one seed: no claim (`rope` 20.0 (20.0 at 1x) and `hope` ")
    assert pick(tmp_path, most=3).words.startswith("tail perplexity at 4x, one seed: no claim ([0009")


def test_what_did_not_learn_the_task_on_every_seed_is_not_taken(tmp_path: Path) -> None:
    trials = {
        "rope": [shares(1, 1, 0.2), shares(1, 1, 0.3)],
        "hope": [shares(1, 1, 0.8), shares(1, 1, 0.9)],
        "fox": [shares(1, 1, 1), shares(0.3, 0.3, 0.3)],
    }
    comparison(tmp_path / "experiments" / "0010-awareness" / "mqar", trials, "mqar")
    need = claims.Need("find", {"mqar": ("0010-awareness/mqar",)}, 4)
    found = pick(tmp_path, need, "mqar")
    assert found.best == ("hope",)
    assert "behind: `rope` 25.0 %; a seed failed, diverged or did not learn: no claim (`fox` 100.0 %)" in found.words
    assert "did not learn" not in found.words.partition("no claim")[2], "one seed of it did"


def test_what_is_not_there_is_not_measured(tmp_path: Path) -> None:
    assert pick(tmp_path).words == "not measured yet"
    comparison(tmp_path / "experiments" / PART, {name: [perplexities(20, 20, 20)] * 2 for name in ("rope", "hope")})
    among = claims.Need("longer", {"language": (PART,)}, 4, ("rope", "rope then rope~yarn:factor=16"))
    assert pick(tmp_path, among) == picks.Pick("language", (), "`rope then rope~yarn:factor=16`: not measured yet")
