"""The page of what was found is what the committed results give, and its words come from them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.experiments import EXPERIMENTS, comparison, perplexities, script, shares

found, claims, evidence = script("found"), script("claims"), script("evidence")
ROOT = EXPERIMENTS.parent


def test_the_committed_page_is_current() -> None:
    stale = [str(path) for path, text in found.texts(ROOT).items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{stale}: run make docs (.venv/bin/python experiments/found.py)"


@pytest.mark.parametrize(("args", "code"), [(["--help"], 0), (["--out", "x"], 2), (["x"], 2)])
def test_help_and_unknown_arguments_write_nothing(
    args: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(found, "write_atomically", lambda *_: pytest.fail("it wrote"))
    with pytest.raises(SystemExit) as ended:
        found.main(args)
    assert ended.value.code == code
    told = capsys.readouterr()
    assert "Writes docs/found.md" in told.out if code == 0 else "unrecognized arguments" in told.err


def test_links_lead_somewhere_and_every_number_has_one() -> None:
    for page in (ROOT / "docs" / "found.md", ROOT / "README.md"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for paper in claims.PAPERS:
        for claim in paper.claims:
            for one in claim.evidence:
                line = one.line(evidence.Known(ROOT))
                assert line.verdict == evidence.Verdict.MISSING or line.words.endswith("))"), line.words


def test_what_is_not_measured_is_said_once_for_a_claim() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs" / "found.md").read_text(encoding="utf-8").splitlines()]
    for told in (cells[-1].split("<br>") for cells in rows if len(cells) == 3):
        assert len(set(told)) == len(told), told


def test_every_question_of_the_study_is_asked() -> None:
    asked = [claim.question for paper in claims.PAPERS for claim in paper.claims if claim.question]
    assert len(asked) == 9
    assert [need.name for need in claims.NEEDS] == [
        "train from scratch, short contexts",
        "train, and read past the training length",
        "find things past the training length",
        "make a trained checkpoint longer",
        "read larger images than in training",
    ]


def test_an_answer_turns_with_the_results(tmp_path: Path) -> None:
    """Nothing is decided by hand: of results in which rope is better the page says so; of none, that none is there."""
    (tmp_path / "README.md").write_text(f"# A\n\n{found.BEGIN}{found.END}\nB\n")

    def answer() -> str:
        texts = found.texts(tmp_path)
        readme = texts[tmp_path / "README.md"]
        assert readme.startswith("# A\n")
        assert readme.endswith("\nB\n")
        told = re.search(r"Does HoPE extrapolate better than RoPE\? \| (.*?) \|", texts[tmp_path / "docs" / "found.md"])
        assert told is not None
        short = re.search(r"- Does HoPE extrapolate better than RoPE\? (.*)", readme)
        assert short is not None
        assert short[1].partition(": `hope`")[0] == told[1], "the same answer, with its numbers where there is one"
        return told[1]

    assert answer() == "not measured yet"
    part = tmp_path / "experiments" / "0009-extrapolation" / "language"
    lengths = {"rope": (20, 20, 20, 20, 20), "hope": (20, 30, 40, 50, 60)}
    for seeds, hope, said in ((1, "hope", "one seed: no claim"), (3, "hope", "**No**"), (3, "rope", "**Yes**")):
        rows = {"hope": lengths[hope], "rope": lengths["rope" if hope == "hope" else "hope"]}
        comparison(part, {name: [perplexities(*tails)] * seeds for name, tails in rows.items()})
        assert answer() == said
    shutil.rmtree(part)
    assert answer() == "not measured yet"


def test_the_page_says_what_its_trials_are(tmp_path: Path) -> None:
    """Trials that two studies share count once; those on another machine are told apart."""
    (tmp_path / "README.md").write_text(f"{found.BEGIN}{found.END}")
    page = tmp_path / "docs" / "found.md"
    assert "What was trained" not in found.texts(tmp_path)[page]
    for part in ("0009-extrapolation", "0013-content"):
        folder = tmp_path / "experiments" / part / "language"
        comparison(folder, {"rope": [perplexities(20, 20, 20)] * 2}, parameters=800_000)
    path = tmp_path / "experiments" / "0013-content" / "recall"
    comparison(path, {"hope": [shares(1, 1, 1)] * 3}, "recall", parameters=670_000)
    results = json.loads((path / "results.json").read_text())
    data = {"task": "images", "version": 1, "vocab_size": 34, "unit": "pixels"}
    images = {"pape": [shares(1, key="accuracy", unit=48)]}
    folder = tmp_path / "experiments" / "0015-images" / "resolution"
    comparison(folder, images, "images", parameters=150_000, train_length=48, lengths=[48], data=data)
    devices = {"cpu": ["hope-s0"], "NVIDIA H200": ["hope-s1", "hope-s2"]}
    (path / "results.json").write_text(json.dumps({**results, "differing": {"device": devices}}))
    told = found.texts(tmp_path)[page].replace("\n", " ")
    assert "have six trials: models of 0.15 M to 0.80 M parameters, trained at 128 tokens and 48 pixels, " in told
    assert "4 on a CPU with two cores (A CPU) and 2 on an NVIDIA H200. " in told


def test_readings_are_of_what_is_there() -> None:
    """The studies that are no comparisons: what the page says of each is in its README as well."""
    told = (ROOT / "docs" / "found.md").read_text(encoding="utf-8")
    shapes = (EXPERIMENTS / "0004-u-shape" / "README.md").read_text(encoding="utf-8")
    assert "HoPE removes 4 of 4, 4 of 5 and 4 of 4 of them" in told
    assert "| 11-14, 10-14, 11-14 (0.9 to 2.8) | all; 4 of 5; all |" in shapes
    models = (EXPERIMENTS / "0007-pretrained-llms" / "README.md").read_text(encoding="utf-8")
    for value, there in (("2.22 nats with `rope~yarn:factor=2`, 3.11 as it is", "2.22"), ("0.20 nats (its", "0.199")):
        assert value in told
        assert there in models
    assert "0.49 to 0.60 of the margin of SmolLM2's previous-token heads" in models
    assert "49 to 60 % in 5 heads (SmolLM2-135M)" in told


def test_controls_and_layers_are_named() -> None:
    told = (ROOT / "docs" / "found.md").read_text(encoding="utf-8")
    assert "control, no positions: `nope`: the far end" in told
    assert "control, without these pairs: `hope`, three seeds: farthest goes" in told
    assert "in layer 1 of its 30 (SmolLM2-135M) and layers 2 and 4 of its 18 (Gemma 3 270M)" in told
    assert "in no layer of its 30 (SmolLM2-135M)" in told
    assert re.search(r"A step with CoPE takes over ten times another's \(.*\) \| \*\*does not hold\*\* \|", told)


def test_of_many_that_are_not_told_apart_rope_is_named_alone() -> None:
    pick = script("picks").Pick
    few, many = ("fox", "rope", "hope"), ("fox", "rope", "hope", "cope", "path")
    assert found._take([pick("language", few, "")]) == "`fox`, `rope` and `hope`"
    assert found._take([pick("language", many, "")]) == (
        "`rope`, which everything reads: no difference from the best, `fox`, is resolved, nor is that of 3 others"
    )
    assert found._take([pick("language", ("rope", *few, "t5", "fire"), "")]).endswith("of 5 others from it is resolved")
    assert found._take([pick("language", (*many[:1], *many[2:], "fire"), "")]).count("`") == 10
