"""What a model has that has learnt nothing: the level that every value is held against."""

from dataclasses import dataclass

from whorl.reports.formatting import number, percent
from whorl.results.comparison import Comparison
from whorl.results.over_seeds import Metric


@dataclass(frozen=True)
class Level:
    """`shown` is the value as people read it; `meaning` says who has it, after `name`."""

    value: float
    name: str
    shown: str
    meaning: str


def level(c: Comparison, metric: Metric, length: int | None) -> Level | None:
    """Of a unigram model at a length, or of guessing; None where neither is known."""
    unigram = None if length is None else c.unigram(metric, length)
    if unigram is not None:
        meaning = "a model that knows how often each token occurs and nothing else"
        return Level(unigram, "a unigram model", number(unigram), meaning)
    chance = c.guessing(metric, length)
    return None if chance is None else Level(chance, "guessing", percent(chance), "what guessing gives")
