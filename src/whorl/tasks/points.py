"""Which solid is a cloud of points? Turned in training and in testing, denser, thinner and moved. Version 1.

A cloud is so many points drawn evenly from the surface of one of twelve solids (`whorl.tasks.solids`), each solid as
often as any other. It is stretched along x, y and z by factors from 0.9 to 1.1, turned, and every point moved by
normal noise of 0.01. Solids lie in the unit sphere. In training a cloud is turned as `turned` says: not at all, about
z, or by any turn, each as likely as any other.

Evaluation has the same stretched solids at every length, in other turns:

accuracy   turned as in training
upright    not turned
about_z    turned about z
all_turns  turned by any turn
moved      turned as in training, and all points moved by a vector of length 2
hands      of the clouds that wind to the left or to the right, turned as in training: is the true one of these two the
           likelier? What goes by distances alone has one half

A cloud depends on (seed, its number) alone; of an evaluation on (data_seed, points, its number).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from whorl.data.losses import evaluating
from whorl.encodings.config import Known, choices
from whorl.results.comparison import Data
from whorl.results.trial import Row
from whorl.tasks.base import Arguments, Example, Progress, Task, TaskSettings, Words, argument, of_samples
from whorl.tasks.graded import EVALUATION, TRAINING, VALIDATION, Examples
from whorl.tasks.metrics import ABOUT_Z, ALL_TURNS, CLOUDS, HANDS_TOLD, MOVED, UPRIGHT
from whorl.tasks.solids import HANDS, SOLIDS, surface, turn

TURNED = ("none", "z", "all")
NOISE, STRETCH, AWAY = 0.01, 0.1, 2.0
FEWEST = 8  # points


@dataclass(frozen=True)
class PointArguments(Arguments):
    """turned: how clouds are turned in training."""

    turned: str = argument("none", "how clouds are turned in training: none, z (about z) or all (any turn)")

    name = "points"

    def __post_init__(self) -> None:
        choices("turned", self.turned, TURNED)


class Points(Task):
    """Clouds of points, each of one solid. `vocab_size` counts the solids."""

    name = evaluation = "points"
    title = "Solids from points"
    version = 1
    metrics = (CLOUDS, UPRIGHT, ABOUT_Z, ALL_TURNS, MOVED, HANDS_TOLD)
    body = "points"
    takes = PointArguments
    unit = "points"
    encodings = ("spe:radius=0.5,neighbours=16", "pape-ri:unit=0.1", "euclidean-alibi:unit=0.1")
    vocab_size = len(SOLIDS)
    bos_token_id = eos_token_id = 0  # there is no token

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.turned = PointArguments.of_arguments(settings.arguments).turned

    @classmethod
    def default_lengths(cls, given: Any, train_length: int) -> tuple[str, ...]:
        points = (train_length // 2, train_length, 2 * train_length, 4 * train_length)
        return tuple(str(n) for n in points if n >= FEWEST)

    @classmethod
    def known(cls, settings: TaskSettings) -> Known:
        return replace(super().known(settings), reach=1.0)  # solids lie in the unit sphere

    @classmethod
    def words(cls) -> Words:
        return Words(
            measure="Accuracy",
            samples="clouds",
            tokens="points",
            caption="The share of clouds whose solid is the likeliest, turned as in training.",
            table="accuracy, by points in a cloud",
            beside="Trained and tested in other turns, at {at} points, with the same solids in every column. Hands: "
            "which way a coil winds, which distances alone do not tell.",
            beyond="at other densities than in training",
            others="clouds of other densities",
            at_others="at other densities",
            caveats=(
                "These are twelve solids, whole and evenly sampled: nothing here is about scans, of which a part is "
                "missing and the middle is another point.",
            ),
        )

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        super().check(settings)
        for points in (settings.train_length, *settings.lengths):
            if points < FEWEST:
                raise ValueError(f"a cloud of the points task has {FEWEST} points or more, got {points}")

    def describe(self) -> Data:
        facts = {"clouds": self.settings.windows, "turned in training": self.turned, "solids": list(SOLIDS)}
        return Data(self.name, self.version, self.vocab_size, facts, unit=self.unit, one_length=True)

    def training_set(self, seed: int, examples: int) -> Dataset[Example]:
        return Examples(examples, lambda i: self._example(np.random.default_rng((TRAINING, seed, i))))

    def validation_set(self) -> Dataset[Example]:
        drawn = (VALIDATION, self.settings.data_seed)
        return Examples(self.settings.windows, lambda i: self._example(np.random.default_rng((*drawn, i))))

    def validation_loss(self, model: torch.nn.Module, batch_tokens: int = 16384) -> float:
        items = self.validation_set()
        found = [items[i] for i in range(len(items))]  # type: ignore[arg-type]
        clouds, labels = (torch.stack([item[key] for item in found]) for key in ("coordinates", "labels"))
        return float(cross_entropy(_logits(model, clouds, batch_tokens), labels))

    def evaluation_set(self, length: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Clouds float32 [windows, points, 3] as they are turned (and moved), and the numbers of their solids."""
        ways: dict[str, list[np.ndarray]] = {way: [] for way in (*TURNED, "moved")}
        labels = []
        for i in range(self.settings.windows):
            rng = np.random.default_rng((EVALUATION, self.settings.data_seed, length, i))
            labels.append(i % len(SOLIDS))
            cloud, noise = _stretched(rng, labels[-1], length), _noise(rng, length)
            for way in TURNED:
                ways[way].append(cloud @ turn(rng, way) + noise)
            away = rng.normal(size=3)
            ways["moved"].append(ways[self.turned][-1] + AWAY * away / np.linalg.norm(away))
        clouds = {way: torch.from_numpy(np.stack(found)).float() for way, found in ways.items()}
        return clouds, torch.tensor(labels)

    def evaluate(
        self, model: torch.nn.Module, length: int, batch_tokens: int = 16384, progress: Progress | None = None
    ) -> Row:
        """`samples` are 1 for a cloud whose solid is found, 0 for another; all values are nan where a logit is not
        finite."""
        clouds, labels = self.evaluation_set(length)
        logits = {way: _logits(model, found, batch_tokens) for way, found in clouds.items()}
        right = {way: (found.argmax(-1) == labels).double() for way, found in logits.items()}
        own, wound = logits[self.turned], torch.isin(labels, torch.tensor(HANDS))
        told = own[wound][:, HANDS].argmax(-1) == (labels[wound] == HANDS[1])
        values = {
            CLOUDS.key: float(right[self.turned].mean()),
            **{metric.key: float(right[way].mean()) for metric, way in zip(self.metrics[1:5], right, strict=True)},
        }
        if len(told):  # fewer clouds than solids may have none
            values[HANDS_TOLD.key] = float(told.double().mean())
        first = right[self.turned]
        if not all(found.isfinite().all() for found in logits.values()):
            values, first = dict.fromkeys(values, math.nan), torch.full_like(first, math.nan)
        if progress is not None:
            progress(len(labels))
        return Row(length, values, sequences=len(labels), **of_samples(first))

    def _example(self, rng: np.random.Generator) -> Example:
        number, points = int(rng.integers(len(SOLIDS))), self.settings.train_length
        cloud = _stretched(rng, number, points) @ turn(rng, self.turned) + _noise(rng, points)
        return {"coordinates": torch.from_numpy(cloud).float(), "labels": torch.tensor(number)}


def _stretched(rng: np.random.Generator, number: int, points: int) -> np.ndarray:
    return surface(rng, number, points) * rng.uniform(1 - STRETCH, 1 + STRETCH, size=3)


def _noise(rng: np.random.Generator, points: int) -> np.ndarray:
    return NOISE * rng.normal(size=(points, 3))


def _logits(model: torch.nn.Module, clouds: torch.Tensor, batch_points: int) -> torch.Tensor:
    """[clouds, solids], float32 on the CPU, from at most so many points at a time, or one cloud."""
    with evaluating(model) as device:
        batches = clouds.split(max(1, batch_points // clouds.shape[1]))
        return torch.cat([model(coordinates=batch.to(device)).logits.float().cpu() for batch in batches])
