"""`whorl compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from whorl.cli.parts import parts
from whorl.training.settings import MODELS, Settings

EPILOG = """
[bold]Examples[/]

 whorl compare                                              rope, hope and p-rope:p=0.5 on the standard library\n
 whorl compare rope hope alibi --seeds 0,1,2 --out runs/three\n
 whorl compare hope rope+window:size=64/nope --text book.txt --train-length 256\n
 whorl compare rope hope --task copy --out runs/copy\n
 whorl compare nope t5 --task copy-items:variant=rsc --out runs/copy-items\n
 whorl compare rope hope --mix mqar=0.1 --out runs/mixed      text, and a task of retrieval\n
 whorl compare rope hope --model config.json --text hf:roneneldan/TinyStories --tokens 100000000\n
 whorl compare rope hope --seeds 0,1,2 --jobs 2               two trials at a time\n
 whorl compare rope hope --seeds 0,1,2 --out /shared/run --ray head:6379\n
 whorl compare rope hope --seeds 0,1,2 --job-list jobs.txt   a command for each trial, for a scheduler\n
 torchrun --nproc_per_node 4 -m whorl compare rope hope --model base --out runs/base

The same command goes on where a killed run stopped; finished trials are never run again. A trial that fails is noted
and stops no other: the command ends with status 1, and run again it runs only those.
"""

_D = Settings()
_LISTING = json.loads(Path(__file__).with_name("listing.json").read_text(encoding="utf-8"))


def _of_tasks(option: str) -> str:
    """The help of an option that only some tasks read, and which those are, as `whorl.cli.listing` wrote them down."""
    tasks = _LISTING.get("tasks", {}).items()  # none where the listing, which imports this, is about to be made anew
    told = {name: task["options"][option] for name, task in tasks if option in task["options"]}
    return "; ".join(dict.fromkeys(told.values())) + f" (task {', '.join(told)})."


def _tasks() -> str:
    """The tasks and the arguments that they take, `whorl list` says what these mean."""
    told = (
        f"{name} ({', '.join(row['arguments'])})" if row["arguments"] else name
        for name, row in _LISTING.get("tasks", {}).items()
    )
    return f"{', '.join(told)}; arguments as in parity:scratchpad=full. `whorl list` says what they mean."


def _encodings() -> str:
    """Which encodings are compared where none are named, and in which tasks these are others."""
    told: dict[str, list[str]] = {}
    for name, row in _LISTING.get("tasks", {}).items():
        told.setdefault(" ".join(row["encodings"]), []).append(name)
    each = [f"{names} (task {', '.join(tasks)})" if i else names for i, (names, tasks) in enumerate(told.items())]
    return f"Default: {'; '.join(each)}."


def compare(
    encodings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ENCODING...",
            help="Encodings in whorl's notation: name:key=value,key=value; A+B for both effects; A/B to cycle over the "
            "layers; TYPE=A/TYPE=B by layer type; 'A then B' trains A and evaluates the trained model with B. "
            f"`whorl list` names them. {_encodings()}",
        ),
    ] = None,
    task: Annotated[str, typer.Option(help=_tasks(), metavar="TASK[:KEY=VALUE,...]")] = _D.task,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=WEIGHT",
            help="Mixes a task into language training, as this share of the sequences (mqar=0.1); may be repeated.",
        ),
    ] = None,
    text: Annotated[str, typer.Option(help=_of_tasks("text"))] = _D.text,
    tokenizer: Annotated[str | None, typer.Option(help=_of_tasks("tokenizer"))] = None,
    model: Annotated[
        str, typer.Option(help=f"{', '.join(MODELS)}, or a config.json, a model directory, a .gguf file or a hub name.")
    ] = _D.model,
    train_length: Annotated[
        int | None,
        typer.Option(
            help="The longest training sequence, in what the task counts: tokens, items, digits.",
            show_default="the task's own, 128 tokens for language",
        ),
    ] = _D.train_length,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="Evaluation lengths, counted alike, or as multiples of the training length.",
            show_default="the task's own, 1x,2x,4x,8x,16x for language",
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Training tokens per trial.", show_default="the model's own, 3.7 M for tiny")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds; more than one gives a spread.")] = "0",
    out: Annotated[Path, typer.Option(help="The results folder.")] = Path("runs/compare"),
    tail: Annotated[int, typer.Option(help="Target tokens at the end of each evaluation window.")] = _D.tail,
    windows: Annotated[int, typer.Option(help="Evaluation windows per length, at most.")] = _D.windows,
    batch_size: Annotated[int, typer.Option(help="Sequences per optimiser step, over all processes.")] = _D.batch_size,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="the model's own, 0.002 for tiny")
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            help="Several, as 5e-4,1e-3,2e-3: each encoding is trained at all of them, and shown at the one with the "
            "lowest loss in range, on examples that the evaluation does not ask for."
        ),
    ] = None,
    schedule: Annotated[str, typer.Option(help="cosine, linear or constant, after the warm-up.")] = _D.schedule,
    warmup: Annotated[float, typer.Option(help="Share of the steps that warms up.")] = _D.warmup,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.")] = _D.weight_decay,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = _D.precision,
    snapshots: Annotated[
        int, typer.Option(help="Keep each trial's weights this many times along its training, for whorl inspect.")
    ] = 0,
    jobs: Annotated[
        int, typer.Option(help="Trials at a time, each in a process of its own with a share of the threads, or a GPU.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Trials as tasks of Ray: of the one at host:port, or without an address of the one that is there, or "
            "of a new one.",
        ),
    ] = None,
    job_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Run nothing; write a command for each trial that is not finished, one a line, for a scheduler.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="trials|report",
            help="trials: write no report, so that any number of commands may work in one folder at a time; "
            "report: run nothing, write the report of what is finished.",
        ),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Train with torch.compile (needs a C++ compiler on a CPU).")
    ] = False,
) -> None:
    """Train encodings side by side, evaluate them past the training length, write a report.

    Every encoding starts from the same weights and sees the same batches in the same order.

    Arguments that are not given (a base, hope's train_length) are the model's own where it has weights, or else the
    defaults and the run's train length.

    Perplexity is taken on the same target tokens with more and more context: one that rises is hurt by that context.
    """
    lengths_asked = None if lengths is None else tuple(parts(lengths))
    settings = Settings(
        task, text, tokenizer, model, train_length, lengths_asked, tokens, tail, windows, batch_size, learning_rate,
        schedule, warmup, weight_decay, precision, compile, tuple(mix or ()),
    )  # fmt: skip
    from dataclasses import asdict

    from whorl.comparison import TrialsFailed
    from whorl.comparison import compare as run
    from whorl.comparison.comparing import OF_TASK

    try:
        run(
            encodings or OF_TASK, out=out, seeds=_integers("seeds", seeds),
            learning_rates=_numbers("learning-rates", learning_rates), snapshots=snapshots, only=only, jobs=jobs,
            ray=ray, job_list=job_list, **asdict(settings),
        )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo("whorl: interrupted; the same command goes on where this one stopped", err=True)
        raise typer.Exit(130) from None
    except TrialsFailed as failed:
        typer.echo(f"whorl: {failed}", err=True)
        raise typer.Exit(1) from None


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    try:
        return tuple(map(float, parts(text or "")))
    except ValueError:
        raise ValueError(f"--{option} takes numbers with commas between, got {text!r}; try 5e-4,1e-3,2e-3") from None


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, parts(text)))
    except ValueError:
        raise ValueError(f"--{option} takes whole numbers with commas between, got {text!r}; try 0,1,2") from None
