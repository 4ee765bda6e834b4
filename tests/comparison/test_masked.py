"""A comparison of encoders by masked language modelling, from its settings to its report."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig

import whorl
from whorl.comparison import load_trial
from whorl.reports.comparison.by_length import by_length

from .. import texts
from .small_runs import LENGTH, SMALL


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return texts.count(tmp_path_factory.mktemp("text"))


def test_encoders_are_compared_to_the_report(text: str, tmp_path: Path) -> None:
    results = whorl.compare(["rope", "nope", "learned"], task="mlm", text=text, out=tmp_path, **SMALL)
    assert results.config.data.task == "mlm"
    rope, nope, learned = results.trials
    for length in (LENGTH, 2 * LENGTH):
        assert nope.row("mlm", length).values["word_order"] == 0.5
    assert "32" in learned.row("mlm", 2 * LENGTH).unreachable
    assert rope.train.loss < 5.7, "less than at the start"
    report = (tmp_path / "report.md").read_text()
    for said in (
        "Masked language modelling on",
        "Masked-token perplexity against length",
        "Word order by length in tokens",
        "| guessing | – | 50.0 % | 50.0 % |",
        "Word order in range: 50.0 %, where guessing gives 50.0 %.",
        "among the 8 in the middle of every window",
    ):
        assert said in report, said
    chart = by_length(results, "mlm", "", "")
    assert chart is not None
    assert (chart.pictured, chart.overlaid, len(chart.views)) == (3, False, 3), "perplexity and both shares"
    model = load_trial(tmp_path / "trials" / rope.id)
    assert type(model).__name__ == "ModernBertForMaskedLM"
    assert str(whorl.encoding_of(model)) == "rope:base=10000"


def test_another_body_takes_its_place(text: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    AutoConfig.for_model("bert", **sizes).save_pretrained(tmp_path)
    chosen = {**SMALL, "task": "mlm", "text": text, "model": str(tmp_path / "config.json")}
    results = whorl.compare(["learned", "nope", "alibi"], out=tmp_path / "out", **chosen)
    assert results.trials[1].row("mlm", LENGTH).values["word_order"] == 0.5
    assert type(load_trial(tmp_path / "out" / "trials" / results.trials[0].id)).__name__ == "BertForMaskedLM"


@pytest.mark.parametrize("name", ["fox", "cope"])
def test_what_looks_back_only_is_refused_before_any_work(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no meaning in an encoder, whose queries see the keys after them too"):
        whorl.compare(["rope", name], task="mlm", text=text, out=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()
