"""whorl in the lm-evaluation-harness: the same numbers as the model gives by itself, of what stock code cannot load."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

import whorl
from tests.evaluation import VOCABULARY
from whorl.data.corpus import read_documents, train_tokenizer
from whorl.testing import peaked, tiny_model

REASON = "lm-eval is an optional extra of whorl: pip install 'whorl[lm-eval]'"
pytest.importorskip("lm_eval", reason=REASON)
pytest.importorskip("datasets", reason=REASON)

ENCODING = "t5:num_buckets=8,max_distance=32"
SAID = ["def main(argv):", " return a", "\n\nclass Parser", " import sys, os"]
TASK = """
task: whorl_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{said}}}}"
doc_to_target: "{{{{goes_on}}}}"
{more}
"""
LONGBENCH = """
include: {shipped}
task: longbench_here
tag: []
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{test: {file}}}}}
"""


@pytest.fixture(scope="module")
def model(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with learned biases, which stock code cannot load."""
    folder = tmp_path_factory.mktemp("model")
    found = peaked(tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=96))
    whorl.attach(found, ENCODING)
    with torch.no_grad():
        for parameter in whorl.attached(found).parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    found.save_pretrained(folder)
    train_tokenizer(read_documents(str(text))[:1], VOCABULARY).save_pretrained(folder)
    return folder


def opened(folder: Any, **options: Any) -> Any:
    from whorl.evaluation.lm_eval.model import WhorlLM

    return WhorlLM(pretrained=str(folder), device="cpu", **options)


def requests(kind: str, *pairs: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]


@torch.no_grad()
def likelihood(found: Any, tokenizer: Any, said: str, goes_on: str) -> float:
    """Log-likelihood of what goes on, by the model itself."""
    before = len(tokenizer(said)["input_ids"])
    ids = torch.tensor(tokenizer(said + goes_on)["input_ids"])
    logs = found(ids[None]).logits[0, :-1].double().log_softmax(-1)
    return float(logs.gather(1, ids[1:, None])[before - 1 :].sum())


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("encoding", [None, "alibi", "nope"])
def test_log_likelihoods_are_those_of_the_model(model: Path, batch_size: int, encoding: str | None) -> None:
    found, harness = whorl.load(model).eval(), opened(model, batch_size=batch_size, encoding=encoding)
    if encoding is not None:
        whorl.attach(found, encoding)
    pairs = [(said, goes_on) for said in SAID for goes_on in (" print", " x = 3")]
    answers = harness.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    for (said, goes_on), (likely, _) in zip(pairs, answers, strict=True):
        assert likely == pytest.approx(likelihood(found, harness.tokenizer, said, goes_on), abs=1e-3)
    assert harness.get_model_info()["encoding"] == str(whorl.encoding_of(found))
    assert harness.get_model_info().get("trained_with") == (None if encoding is None else ENCODING)


def test_generation_is_that_of_the_model_whatever_else_is_in_the_batch(model: Path) -> None:
    found, harness = whorl.load(model).eval(), opened(model, batch_size=4)
    asked = {"until": [], "max_gen_toks": 8, "do_sample": False}
    answers = harness.generate_until(requests("generate_until", *((said, asked) for said in SAID)), disable_tqdm=True)
    for said, answer in zip(SAID, answers, strict=True):
        ids = harness.tokenizer(said, return_tensors="pt")["input_ids"]
        alone = found.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert answer == harness.tokenizer.decode(alone, skip_special_tokens=True)
    assert len(set(answers)) > 1


def test_a_task_runs_by_the_command_on_what_stock_cannot_load(model: Path, tmp_path: Path) -> None:
    rows = [{"said": said, "goes_on": " print", "choices": [" print", " x = 3"], "label": 0} for said in SAID]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    more = "doc_to_choice: choices\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"
    task = TASK.format(file=tmp_path / "rows.json", kind="multiple_choice", more=more)
    (tmp_path / "task.yaml").write_text(task.replace("{{goes_on}}", "{{label}}"))

    def run(*how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "whorl.evaluation.lm_eval", "run", *how, "--tasks", "whorl_local"]
        command += ["--include_path", str(tmp_path), "--device", "cpu", "--output_path", str(tmp_path / "out")]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    for given in (None, "alibi", "t5:num_buckets=4,max_distance=16"):
        encoding = given or ENCODING
        arguments = f"pretrained={model}" + ("" if given is None else f",encoding='{given}'")
        done = run("--model", "whorl", "--model_args", arguments)
        assert done.returncode == 0, done.stderr
        (written,) = (tmp_path / "out").rglob("results_*.json")
        results = json.loads(written.read_text())
        written.unlink()
        assert results["config"]["encoding"] == encoding
        found = whorl.load(model).eval() if given is None else whorl.attach(whorl.load(model).eval(), encoding)
        tokenizer = opened(model).tokenizer
        right = [
            likelihood(found, tokenizer, said, " print") > likelihood(found, tokenizer, said, " x = 3") for said in SAID
        ]
        assert results["results"]["whorl_local"]["acc,none"] == pytest.approx(sum(right) / len(right))
    stock = run("--model", "hf", "--model_args", f"pretrained={model}")
    assert stock.returncode != 0
    assert "whorl.load" in stock.stderr, "it says why"


def test_longbench_runs_on_what_stock_cannot_load(model: Path, text: Path, tmp_path: Path) -> None:
    """Its `lcc`, with its own prompt, generation and score; the records are ours, since LongBench's are a download."""
    reason = "LongBench needs an extra of lm-eval: pip install 'lm-eval[longbench]'"
    fuzz = pytest.importorskip("fuzzywuzzy.fuzz", reason=reason)
    from lm_eval import simple_evaluate
    from lm_eval import tasks as harness_tasks

    lines = read_documents(str(text))[0].splitlines(keepends=True)
    rows = [{"context": "".join(lines[:i]), "answers": [lines[i].rstrip()]} for i in (1, 2, 3)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    shipped = Path(harness_tasks.__file__).parent / "longbench" / "lcc.yaml"
    (tmp_path / "task.yaml").write_text(LONGBENCH.format(shipped=shipped, file=tmp_path / "rows.json"))

    harness, found = opened(model, max_length=512), whorl.load(model).eval()
    manager = harness_tasks.TaskManager(include_path=str(tmp_path))
    done = simple_evaluate(harness, tasks=["longbench_here"], task_manager=manager)
    scores = []
    for row, sample in zip(rows, done["samples"]["longbench_here"], strict=True):
        asked = f"Please complete the code given below. \n{row['context']}Next line of code:"
        ids = harness.tokenizer(asked, return_tensors="pt")["input_ids"]
        alone = found.generate(ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
        said = harness.tokenizer.decode(alone, skip_special_tokens=True)
        assert sample["resps"] == [[said]]
        code = [line for line in said.split("\n") if line.strip() and not any(x in line for x in ("`", "#", "//"))]
        scores.append(fuzz.ratio((code or [""])[0], row["answers"][0]) / 100)
    assert any(scores)
    assert done["results"]["longbench_here"]["code_sim_score,none"] == pytest.approx(sum(scores) / len(scores))


def test_trials_and_gguf_files_are_opened(text: Path, tmp_path: Path) -> None:
    how = {"train_length": 32, "lengths": ("1x",), "tokens": 2 * 4 * 32, "batch_size": 4, "tail": 8, "windows": 4}
    whorl.compare(["alibi"], out=tmp_path / "run", text=str(text), quiet=True, precision="fp32", **how)
    (trial,) = (tmp_path / "run" / "trials").iterdir()
    harness = opened(trial)
    assert harness.get_model_info()["encoding"] == "alibi"
    assert harness.get_model_info()["train_length"] == 32
    (likely, _), *_ = harness.loglikelihood(requests("loglikelihood", (SAID[0], " x")), disable_tqdm=True)
    assert likely == pytest.approx(likelihood(harness.model, harness.tokenizer, SAID[0], " x"), abs=1e-3)
    pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")
    from tests.runtimes.exports import llama, trained
    from whorl.runtimes.exporting import export

    tokenizer = trained("smollm", 400)
    small = llama("hope:train_length=24", vocab_size=len(tokenizer), max_position_embeddings=32)
    file = export(small, tmp_path / "out", runtime="gguf", tokenizer=tokenizer).path / "model.gguf"
    assert opened(file).get_model_info()["encoding"] == "hope:train_length=24,base=10000"
    assert opened(file, dtype="bfloat16").model.dtype == torch.bfloat16


def test_what_it_does_not_know_is_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="whorl has no argument 'parallelize'"):
        opened(model, parallelize=True)
    with pytest.raises(ValueError, match="no argument 'max_distance'.*; an encoding with commas stands in quotes"):
        opened(model, encoding="t5:num_buckets=8", max_distance=32)
    with pytest.raises(ValueError, match="unknown encoding 'hop'"):
        opened(model, encoding="hop")


def test_the_entry_point_is_what_lm_eval_takes() -> None:
    """Versions after 0.4.13 put the entry points of this group into their registry of models."""
    from lm_eval.api.registry import get_model, model_registry

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (name, target), *others = project["entry-points"]["lm_eval.models"].items()
    assert (name, others) == ("whorl", [])
    import_module("lm_eval.models")
    model_registry.register("whorl-by-entry-point", target=EntryPoint(name, target, "lm_eval.models"))
    assert get_model("whorl-by-entry-point").__name__ == "WhorlLM"
