"""Language: windows of one document, the same targets at every length, and perplexities that can be known."""

import math

import numpy as np
import pytest
import torch

from whorl.data import corpus
from whorl.data.losses import token_losses
from whorl.results.trial import Row
from whorl.tasks.base import TaskSettings
from whorl.tasks.language import Language

LENGTHS = (24, 48, 96)
TAIL = 16


def settings(folder, **changes):
    defaults = {"train_length": 24, "lengths": LENGTHS, "tail": TAIL, "windows": 7, "vocab_size": 300}
    return TaskSettings(**defaults | {"text": str(folder)} | changes)


def numbers(i, count):
    """Text that is different in every document and hardly repeats."""
    return " ".join(str(n) for n in np.random.default_rng(i).integers(10**6, size=count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("text")
    for i in range(40):
        (path / f"{i:02}.txt").write_text(numbers(i, 10 if i % 2 else 120))
    return path


@pytest.fixture(scope="module")
def task(folder):
    return Language(settings(folder))


class Model(torch.nn.Module):
    """Gives `logits(ids)` and keeps what it was asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.asked = logits, []

    def forward(self, input_ids, use_cache):
        self.asked.append(input_ids.clone())
        return type("Output", (), {"logits": self.logits(input_ids)})


def uniform(task):
    return Model(lambda ids: torch.zeros(*ids.shape, task.vocab_size))


def certain(task, confidence):
    """Knows the next token, with this log-odds against every other."""

    def logits(ids):
        return confidence * torch.nn.functional.one_hot(ids.roll(-1, dims=1), task.vocab_size).float()

    return Model(logits)


def windows_seen(task, length):
    model = uniform(task)
    task.evaluate(model, length, batch_tokens=2 * length)
    return torch.cat(model.asked)


def test_targets_are_the_same_tokens_at_every_length(task):
    seen = {length: windows_seen(task, length) for length in LENGTHS}
    for length, windows in seen.items():
        assert windows.shape == (7, length)
        assert torch.equal(windows, seen[96][:, -length:])


def test_windows_lie_within_one_held_out_document_and_share_no_target(task, folder):
    texts = [path.read_text() for path in sorted(folder.iterdir())]
    _, heldout = corpus.split_documents(texts)
    assert task.describe().facts["heldout_documents"] == len(heldout) == 4
    documents = corpus.encode(task.tokenizer, heldout)
    targets = []
    for window in windows_seen(task, 96).numpy():
        places = [
            (d, start)
            for d, tokens in enumerate(documents)
            for start in range(len(tokens) - 95)
            if np.array_equal(tokens[start : start + 96], window)
        ]
        assert len(places) == 1, "the window must be found in one document, whole"
        ((d, start),) = places
        targets += [(d, t) for t in range(start + 96 - TAIL, start + 96)]
    assert len(set(targets)) == len(targets) == 7 * TAIL
    long_enough = {d for d, tokens in enumerate(documents) if len(tokens) >= 96}
    assert {d for d, _ in targets} == long_enough
    assert len(long_enough) >= 2


def test_all_windows_there_are_when_more_are_asked(folder):
    task = Language(settings(folder, windows=10**6))
    room = sum(max(0, (len(tokens) - 96) // TAIL + 1) for tokens in task.heldout)
    assert task.describe().facts["windows"] == len(windows_seen(task, 96)) == room > 7


def test_training_windows_are_of_the_training_documents_only(task, folder):
    texts = [path.read_text() for path in sorted(folder.iterdir())]
    train, _ = corpus.split_documents(texts)
    stream = np.concatenate(corpus.encode(task.tokenizer, train))
    assert task.describe().train_tokens == len(stream)
    places = {tuple(w) for w in np.lib.stride_tricks.sliding_window_view(stream, 24).tolist()}
    items = task.training_set(seed=0, examples=200)
    drawn = {tuple(items[i]["input_ids"].tolist()) for i in range(200)}
    assert drawn <= places
    assert len(drawn) > 150
    assert all(torch.equal(items[i]["input_ids"], items[i]["labels"]) for i in range(200))


def test_the_last_window_of_the_stream_can_be_drawn(folder):
    task = Language(settings(folder))
    task.train_tokens = task.train_tokens[:26]
    items = task.training_set(seed=0, examples=50)
    assert {int(start) for start in items.offsets} == {0, 1, 2}
    assert all(len(items[i]["input_ids"]) == 24 for i in range(50))


def test_uniform_model_has_the_perplexity_of_the_vocabulary(task):
    for length in LENGTHS:
        row = task.evaluate(uniform(task), length)
        assert row == Row(
            length,
            {"tail": pytest.approx(task.vocab_size, rel=1e-5), "mean": pytest.approx(task.vocab_size, rel=1e-5)},
            windows=7,
            tokens=7 * TAIL,
            samples=pytest.approx((math.log(task.vocab_size),) * 7, rel=1e-5),
            stderr=pytest.approx(0, abs=1e-3),
        )


def test_a_unigram_model_has_the_counts_of_the_training_documents_and_one_more(task):
    counts = [1.0] * task.vocab_size
    for token in task.train_tokens.tolist():
        counts[token] += 1
    rows = task.unigram()
    assert [row.length for row in rows] == list(LENGTHS)
    assert task.describe().unigram == rows
    for row in rows:
        losses = [[-math.log(counts[t] / sum(counts)) for t in window] for window in task.windows.tolist()]
        tail = [loss for window in losses for loss in window[-TAIL:]]
        read = [loss for window in losses for loss in window[-row.length + 1 :]]
        assert row.values["tail"] == pytest.approx(math.exp(sum(tail) / len(tail)))
        assert row.values["mean"] == pytest.approx(math.exp(sum(read) / len(read)))


def test_samples_are_the_windows_own_values(task):
    row = task.evaluate(certain(task, 5.0), 48)
    assert math.exp(sum(row.samples) / 7) == pytest.approx(row.values["tail"], rel=1e-5)


def test_perplexity_of_a_model_that_knows_the_next_token(task):
    expected = 1 + (task.vocab_size - 1) * math.exp(-5)  # 1 / softmax of the right token
    row = task.evaluate(certain(task, 5.0), 48)
    assert row.values["tail"] == pytest.approx(expected, rel=1e-5)
    assert row.values["mean"] == pytest.approx(expected, rel=1e-5)


def test_tail_counts_the_last_tokens_only_and_mean_all_of_them(task):
    def logits(ids):  # certain of the targets, uniform before them
        known = 50.0 * torch.nn.functional.one_hot(ids.roll(-1, dims=1), task.vocab_size).float()
        known[:, : ids.shape[1] - TAIL - 1] = 0
        return known

    row = task.evaluate(Model(logits), 48)
    assert row.values["tail"] == pytest.approx(1, abs=1e-5)
    assert row.values["mean"] == pytest.approx(task.vocab_size ** ((47 - TAIL) / 47), rel=1e-4)


def test_stderr_is_of_the_mean_over_windows(task):
    losses = torch.linspace(1, 2, 7)  # nats per token of window 0, 1, ...
    count = iter(range(7))

    def logits(ids):
        others = torch.log((losses[next(count)].exp() - 1) / (task.vocab_size - 1))
        return -others * torch.nn.functional.one_hot(ids.roll(-1, dims=1), task.vocab_size).float()

    row = task.evaluate(Model(logits), 48, batch_tokens=1)
    assert row.values["tail"] == pytest.approx(math.exp(1.5), rel=1e-4)
    assert row.stderr == pytest.approx(math.exp(1.5) * losses.std().item() / math.sqrt(7), rel=1e-3)


def test_diverged_models_give_inf_and_nan(task):
    assert task.evaluate(certain(task, -1e6), 24).values["tail"] == math.inf
    nan = Model(lambda ids: torch.full((*ids.shape, task.vocab_size), math.nan))
    assert math.isnan(task.evaluate(nan, 24).values["tail"])


def test_one_window_has_no_standard_error(folder):
    task = Language(settings(folder, windows=1))
    assert math.isnan(task.evaluate(uniform(task), 24).stderr)


def test_losses_in_bfloat16_are_those_of_its_logits_in_float32_across_chunks():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 2050, 11, dtype=torch.bfloat16), torch.randint(11, (2, 2050))
    expected = -logits[:, :-1].double().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    losses = token_losses(logits, ids)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)


def test_fingerprint_follows_the_tokens_and_not_the_path(task, folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    assert Language(settings(tmp_path)).fingerprint() == task.fingerprint()
    assert Language(settings(folder, tail=8)).fingerprint() != task.fingerprint()
    assert Language(settings(folder, vocab_size=290)).fingerprint() != task.fingerprint()
    (tmp_path / "00.txt").write_text(numbers(100, 120))
    assert Language(settings(tmp_path)).fingerprint() != task.fingerprint()


def test_a_given_tokenizer_is_used(task, folder, tmp_path):
    task.save_tokenizer(tmp_path)
    same = Language(settings(folder, tokenizer=str(tmp_path)))
    assert same.fingerprint() == task.fingerprint()
    assert same.describe().facts["tokenizer"] == str(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tail": 24}, "tail=24 tokens do not fit in the shortest length, 24; try --tail 12"),
        ({"lengths": (1, 24)}, "tokens do not fit in the shortest length, 1; try longer ones"),
        ({"lengths": (24, 48, 9999)}, r"no held-out document .* has 9999 tokens, the longest has \d+; try lengths up"),
        ({"train_length": 10**6}, r"gives \d+ tokens to train on, less than one example of 1000000"),
        ({"text": "nowhere/at.all"}, "no text at 'nowhere/at.all'"),
        ({"tokenizer": "./nowhere"}, "no tokenizer at './nowhere' .*, or leave it out to train one on the text"),
        ({"vocab_size": 100}, "at least 257 tokens, got 100"),
    ],
)
def test_refuses(folder, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        Language(settings(folder, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [16, 97])
def test_evaluation_refuses_a_length_without_windows(task, length):
    with pytest.raises(ValueError, match=rf"perplexity at {length} tokens .* try one of \[24, 48, 96\]"):
        task.evaluate(uniform(task), length)
