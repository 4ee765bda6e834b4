"""The committed pages are what the registry gives; figures are there, and small. (Their bytes are matplotlib's and the
machine's, and are not compared.)"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from whorl.encodings import REGISTRY, get
from whorl.encodings.rope import Rotary
from whorl.pages import kept, reading
from whorl.pages.__main__ import texts

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "encodings"
LARGEST, ALL = 40_000, 1_500_000  # bytes of a figure, and of all


def test_the_committed_pages_are_current() -> None:
    written = texts(ROOT)
    assert {p for p in written if p.parent == FOLDER} == set(FOLDER.glob("*.md"))
    stale = [path.name for path, text in written.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{stale}: run make docs (.venv/bin/python -m whorl.pages)"
    assert kept().keys() == REGISTRY.keys()


def test_every_page_has_its_figure_and_no_figure_is_without_a_page() -> None:
    figures = {path.stem: path.read_bytes() for path in (FOLDER / "figures").iterdir()}
    assert figures.keys() == REGISTRY.keys()
    assert all(image.startswith(b"\x89PNG") and len(image) < LARGEST for image in figures.values())
    assert sum(map(len, figures.values())) < ALL
    for page in FOLDER.glob("*.md"):
        assert page.name == "README.md" or f"(figures/{page.stem}.png)" in page.read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    for page in FOLDER.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://arxiv.org/") or (FOLDER / target).exists(), f"{page.name}: {target}"
    assert "docs/encodings/README.md" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", REGISTRY)
def test_what_it_does_is_told_in_two_sentences(name: str) -> None:
    does = reading.does(get(name))
    assert len(re.findall(r"[.](?: |$)", does)) == 2, does
    assert len(does) < 300
    assert reading.formula(get(name)), "the module's docstring has the formula after its first paragraph"


def test_an_encoding_has_a_file_and_so_a_formula_of_its_own() -> None:
    elsewhere = {n for n in REGISTRY if get(n).__module__ != f"whorl.encodings.{n.replace('-', '_')}"}
    assert elsewhere == {"path-fox"}, "which is path and a gate: the formula of both names it"
    assert reading.formula(get("pape-ri")).startswith("logit(i, j) = (q_i.k_j - softplus(a.x_i) s^2 |p_i - p_j|^2)")


@dataclass(frozen=True)
class Told(Rotary):
    """Turns. So it is (arXiv 0000.00000).

    width  as in `Longer`, or not
    """

    width: int = 3


@dataclass(frozen=True)
class Longer(Told):
    """Turns longer.

    width  channels, which are told
           in two lines
    other  "word" or "another"

    And a word more.
    """

    other: str = "word"


@dataclass(frozen=True)
class Silent(Told):
    """Says nothing of `height`."""

    height: int | None = None


def test_a_class_tells_its_arguments_line_by_line() -> None:
    assert reading.does(Told) == "Turns. So it is (arXiv 0000.00000)."
    assert reading.arguments(Told) == [("width", "3", "channels, which are told in two lines, or not")]
    assert reading.arguments(Longer)[1] == ("other", "word", '"word" or "another"')
    assert reading.notes(Longer) == "And a word more."
    with pytest.raises(ValueError, match="docstring of Silent has no line for its argument width"):
        reading.arguments(Silent)
