"""A comparison on images, from its settings to its report, with a ViT that is trained at one size."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, ViTConfig, ViTForImageClassification

import whorl
from whorl.comparison import TrialsFailed, load_trial
from whorl.sources import source
from whorl.training import trainer
from whorl.training.models import build_model
from whorl.training.settings import Settings

from .small_runs import BATCH, STEPS

SIDE, PATCH = 40, 8
PATCHES = (SIDE // PATCH) ** 2


@pytest.fixture
def chosen(tmp_path: Path) -> dict[str, Any]:
    sizes = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=PATCH,
    )
    sizes.save_pretrained(tmp_path / "vit")
    return {
        "task": f"images:patch={PATCH}", "model": str(tmp_path / "vit"), "train_length": SIDE,
        "lengths": ("32", "1x", "2x"),
        "tokens": STEPS * BATCH * PATCHES, "batch_size": BATCH, "windows": 34, "precision": "fp32", "quiet": True,
        "learning_rate": 2e-3,
    }  # fmt: skip


def test_images_are_compared_to_the_report(chosen: dict[str, Any], tmp_path: Path) -> None:
    out, names = tmp_path / "out", ["hope-2d", "learned-2d", "euclidean-alibi"]
    results = whorl.compare(names, out=out, **chosen)
    assert [trial.notation for trial in results.trials] == names
    assert results.reference("images") == SIDE
    assert (results.near("images"), results.far("images")) == ([SIDE], [32, 2 * SIDE])
    with pytest.raises(ValueError, match="reads images, and this is done with models of texts"):
        source(str(next((out / "trials").iterdir())))
    report = (out / "report.md").read_text()
    for said in (
        "Three positional encodings at other sizes than in training",
        "(images:patch=8), trained at 40 pixels",
        " patches a trial · Seeds: 0",
        "| encoding | seeds | patches | final loss | patches per second | time |",
        "No encoding learnt the images task in range (at least 50 % of the images right at 40, on any seed)",
        "| encoding | accuracy | in a wide frame | in a larger frame | moved |",
        "| guessing | 2.9 % | 2.9 % | 2.9 % | 2.9 % |",
        "| guessing | – | 2.9 % | 2.9 % | 2.9 % |",
        "In a larger frame by length in pixels",
        "In a wide frame by length in pixels",
        "Training loss in nats per image",
    ):
        assert said in report, said
    assert "Which channel pairs turn" not in report, "wavelengths are patches along an axis, and no tokens"
    model = load_trial(out / "trials" / results.trials[0].id)
    assert str(whorl.encoding_of(model)) == "hope-2d:base=100,grid=5@5", (
        "the grid of the training, and not the config's"
    )
    learned = load_trial(out / "trials" / results.trials[1].id)
    assert learned.vit.whorl.effects[0].weight.shape == (5, 5, 16)
    assert model(torch.zeros(1, 3, 24, 48)).logits.shape == (1, 34)
    again = whorl.compare(["hope-2d"], out=tmp_path / "twin", **chosen)
    assert again.trials[0].evaluations == results.trials[0].evaluations, "the same by the seed"


def test_a_training_that_was_stopped_goes_on(
    chosen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whorl.compare(["axial-rope"], out=tmp_path / "whole", **chosen).trials[0]
    monkeypatch.setattr(trainer, "MIN_STEPS", 5)
    saved = trainer.complete

    def stops(folder: Path, step: int, seconds: float, *more: Any) -> None:
        saved(folder, step, seconds, *more)
        if step == 5:
            raise RuntimeError("stopped")

    with monkeypatch.context() as once:
        once.setattr(trainer, "complete", stops)
        with pytest.raises(TrialsFailed, match="stopped"):
            whorl.compare(["axial-rope"], out=tmp_path / "out", **chosen)
    steps: list[int] = []
    forward = ViTForImageClassification.forward

    @functools.wraps(forward)
    def counted(self: ViTForImageClassification, *args: Any, **how: Any) -> Any:
        steps.extend([1] if self.training else [])
        return forward(self, *args, **how)

    monkeypatch.setattr(ViTForImageClassification, "forward", counted)
    parts = whorl.compare(["axial-rope"], out=tmp_path / "out", **chosen).trials[0]
    assert len(steps) == STEPS - 5
    assert parts.evaluations == whole.evaluations
    assert parts.train.losses == whole.train.losses


def test_what_cannot_be_trained_on_images_is_refused(chosen: dict[str, Any], tmp_path: Path) -> None:
    def refused(message: str, *encodings: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=message):
            whorl.compare(list(encodings) or ["axial-rope"], out=tmp_path / "out", **chosen | changes)
        assert not (tmp_path / "out").exists()

    refused(r"patches of '.*vit' have 8 pixels a side, and the task's 4; try --task images:patch=8", task="images")
    refused("a position in ViTForImageClassification has 2", "rope")
    LlamaConfig().save_pretrained(tmp_path / "llama")
    refused(r"trains image models, and '.*llama' \(llama\) is none", model=str(tmp_path / "llama"))
    ViTForImageClassification(ViTConfig.from_pretrained(chosen["model"])).save_pretrained(tmp_path / "trained")
    refused(
        r"the task has 34 classes and the model '.*trained' 2; give its config.json", model=str(tmp_path / "trained")
    )


def test_a_checkpoint_of_as_many_classes_goes_on(chosen: dict[str, Any], tmp_path: Path) -> None:
    """With what it has learnt, and what its own code does with positions is said of it."""
    config = ViTConfig.from_pretrained(chosen["model"], num_labels=34)
    trained = ViTForImageClassification(config)
    trained.save_pretrained(tmp_path / "trained")
    chosen |= {"model": str(tmp_path / "trained"), "tokens": BATCH * PATCHES, "learning_rate": 1e-9}
    found = whorl.compare(["learned-2d"], out=tmp_path / "out", **chosen)
    assert found.pretrained == "learned-2d:grid=8@8"
    model = load_trial(tmp_path / "out" / "trials" / found.trials[0].id)
    torch.testing.assert_close(model.classifier.weight, trained.classifier.weight, atol=1e-6, rtol=0)
    assert str(whorl.encoding_of(model)) == "learned-2d:grid=8@8"


def test_a_preset_is_a_vit_of_half_its_width() -> None:
    with torch.device("meta"):
        config = build_model(Settings(task="images"), 34, 0).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 4, 2)
    assert (config.image_size, config.patch_size, config.num_labels) == (48, 4, 34)
