"""Tasks mixed into language training: the shares, the batches, and what is asked of a model of the mix."""

import math
from pathlib import Path

import pytest
import torch

import whorl
from whorl.results.comparison import Comparison
from whorl.tasks.base import IGNORED, TaskSettings
from whorl.tasks.language import Language
from whorl.tasks.mixed import Mixed, shares
from whorl.tasks.mqar import Mqar
from whorl.tasks.recall import Recall
from whorl.training.settings import Settings

from .. import texts
from ..comparison.small_runs import SMALL

MIX = ("mqar:pairs=3=0.25", "recall=0.125")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return texts.count(tmp_path_factory.mktemp("text"))


def settings(text, **changes):
    known = {"train_length": 64, "lengths": (64, 96), "tail": 8, "windows": 5, "vocab_size": 280, "text": text}
    return TaskSettings(**known | changes)


@pytest.fixture(scope="module")
def mixed(text):
    return Mixed(settings(text), shares(MIX))


def as_of(example, first):
    """A task's own example with its ids begun at `first`."""
    ids, labels = example["input_ids"] + first, example["labels"]
    return ids.tolist(), torch.where(labels == IGNORED, labels, labels + first).tolist()


def test_each_sequence_is_of_the_text_or_of_a_task_by_its_share(mixed, text):
    language = Language(settings(text))
    mqar, recall = Mqar(settings("stdlib", arguments={"pairs": 3})), Recall(settings("stdlib"))
    assert mixed.vocab_size == language.vocab_size + mqar.vocab_size + recall.vocab_size
    count = {"text": 0, "mqar": 0, "recall": 0}
    items, alone = mixed.training_set(seed=3, examples=800), language.training_set(seed=3, examples=800)
    for i in range(800):
        own = {
            "text": as_of(alone[i], 0),
            "mqar": as_of(mqar.training_example(3, i), language.vocab_size),
            "recall": as_of(recall.training_example(3, i), language.vocab_size + mqar.vocab_size),
        }
        found = items[i]["input_ids"].tolist(), items[i]["labels"].tolist()
        (whose,) = (name for name, example in own.items() if example == found)
        count[whose] += 1
    for name, share in (("text", 0.625), ("mqar", 0.25), ("recall", 0.125)):
        assert abs(count[name] / 800 - share) < 4 * math.sqrt(share * (1 - share) / 800), name


def test_sequences_depend_on_seed_and_index_only(mixed, text):
    short, long = mixed.training_set(seed=1, examples=6), Mixed(settings(text), shares(MIX)).training_set(1, 50)
    other = mixed.training_set(seed=2, examples=6)
    assert len(short) == 6
    for i in (5, 0, 3):
        assert all(torch.equal(short[i][key], long[i][key]) for key in ("input_ids", "labels"))
        assert not torch.equal(short[i]["input_ids"], other[i]["input_ids"])
    with pytest.raises(IndexError):
        short[6]


class Knows(torch.nn.Module):
    """Is sure of the next token that the input has, whatever that is, and likes some token of the text even more."""

    def __init__(self, vocab_size):
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, input_ids, use_cache):
        logits = 50.0 * torch.nn.functional.one_hot(input_ids.roll(-1, dims=1), self.vocab_size).float()
        logits[..., 0] = 60.0
        return type("Output", (), {"logits": logits})


def test_a_task_is_asked_among_its_own_symbols_and_the_text_among_all(mixed, text):
    found = mixed.evaluations()
    assert {name: made.lengths for name, made in found.items()} == dict.fromkeys(
        ("perplexity", "mqar", "recall"), (64, 96)
    )
    model = Knows(mixed.vocab_size)
    assert found["recall"].row(model, 96).values == {"token_accuracy": 1.0, "exact_match": 1.0}
    assert found["mqar"].row(model, 96).values["token_accuracy"] == 0.0, "the values do not stand in the input"
    assert found["perplexity"].row(model, 64) == Language(settings(text)).evaluate(model, 64)


def test_the_fingerprint_follows_the_mix(mixed, text):
    def of(*mix):
        return Mixed(settings(text), shares(mix)).fingerprint()

    assert of(*MIX) == mixed.fingerprint()
    known = {of(*MIX), of("mqar:pairs=3=0.25"), of("mqar=0.25"), of("mqar=0.2"), of("recall=0.25")}
    known |= {Language(settings(text)).fingerprint(), Mixed(settings(text, data_seed=1), shares(MIX)).fingerprint()}
    assert len(known) == 7


def test_what_guessing_gives_is_told_of_each_task(mixed):
    (row, _) = mixed.describe().guessing
    assert row.values["mqar.token_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("task", "mix", "message"),
    [
        ("language", ["mqar"], "cannot read the mix 'mqar'; write TASK=WEIGHT"),
        ("language", ["mqar=1"], "cannot read the mix 'mqar=1'"),
        ("language", ["mqar:pairs=8"], "cannot read the mix 'mqar:pairs=8'"),
        ("language", ["mqar=0.5", "recall=0.5"], "the weights of the mix are 1 together and leave no text"),
        ("language", ["mqar=0.1", "mqar:pairs=2=0.1"], "the task mqar is mixed in twice"),
        ("language", ["language=0.1"], "the text is what other tasks are mixed into"),
        ("language", ["nothing=0.1"], "unknown task 'nothing'"),
        ("language", ["mqar:pears=8=0.1"], "mqar has no argument 'pears'"),
        ("language", ["mqar:pairs=40=0.1"], "the mqar task has 161 tokens or more, got 128"),
        (
            "language",
            ["parity=0.1"],
            "the parity task cannot be mixed in: it counts bits, and the text tokens; try one of",
        ),
        ("language", ["mlm=0.1"], "the mlm task cannot be mixed in: it makes no sequences of its own"),
        ("copy", ["mqar=0.1"], "tasks are mixed into the language task, and the task here is copy"),
        ("language", "mqar=0.1", "mix must be a list"),
    ],
)
def test_mixes_that_cannot_be_made_are_refused_before_any_work(task, mix, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        whorl.compare(["rope"], task=task, mix=mix, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_with_weights_has_no_ids_for_a_mix(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"comes with weights and has no ids for the symbols of mqar=0.1"):
        whorl.compare(["rope"], model=str(tmp_path / "model"), mix=["mqar=0.1"], out=tmp_path / "run")


def test_settings_without_a_mix_are_what_they_were():
    """Else no trial of an earlier version would be found again."""
    assert "mix" not in Settings().resolve().to_dict()
    with_mix = Settings(mix=("mqar:pairs=4=0.10",)).resolve()
    assert with_mix.to_dict()["mix"] == ["mqar=0.1"]
    assert Settings.from_dict(with_mix.to_dict()) == with_mix


def test_a_comparison_of_a_mix_from_training_to_report(text, tmp_path: Path):
    run = SMALL | {"text": text, "mix": ["mqar=0.25"], "out": tmp_path / "run"}
    found = whorl.compare(["rope", "nope"], **run)
    assert found.evaluations == ["perplexity", "mqar"]
    for trial in found.trials:
        assert [row.length for row in trial.evaluations["mqar"]] == [32, 64]
        assert next(iter(trial.evaluations["mqar"][0].values)) == "token_accuracy"
        assert 1 < trial.evaluations["perplexity"][0].values["tail"] < math.inf
    assert Comparison.read(tmp_path / "run" / "results.json") == found
    report = (tmp_path / "run" / "report.md").read_text()
    for said in ("mixed with mqar=0.25 of the sequences", "Perplexity: findings", "Mqar accuracy: findings"):
        assert said in report
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "trials").glob("*/result.json")}
    whorl.compare(["rope", "nope"], **run)
    assert {path: path.stat().st_mtime_ns for path in written} == written, "finished trials are not run again"
    with pytest.raises(ValueError, match=r"another configuration \(mix \['mqar=0.25'\] there and None asked\)"):
        whorl.compare(["rope", "nope"], **run | {"mix": []})
