"""`whorl inspect`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whorl.cli.extend import Device, Tokenizer
from whorl.console import console, said

if TYPE_CHECKING:
    from whorl.results.inspection import Inspection
    from whorl.results.plan import Plan

EPILOG = """
[bold]Examples[/]

 whorl inspect runs/compare/trials/rope-s0-…                a trial of whorl compare, on the text that it learnt\n
 whorl inspect path/to/model --text book.txt --train-length 2048 --length 8192\n
 whorl inspect path/to/model path/to/other                  side by side\n
 whorl inspect path/to/model --ablate                       and what its slow pairs do for its loss\n
 whorl inspect google/gemma-7b --stream-layers --length 2048 --windows 2\n
 whorl inspect path/to/a/vit --data photos/ --size 224x448    an image model, on images that are not square

DIR/report.html opens in any browser; DIR/inspection.npz holds every number
(whorl.Inspection.load, of image models whorl.ImageInspection.load).
"""


OF_TEXTS = ("text", "tokenizer", "length", "train_length", "layers", "plan", "windows", "random_windows", "ablate",
            "snapshots", "stream_layers")  # fmt: skip
OF_IMAGES = ("data", "size", "images")


def inspect(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL [OTHER]", help="A model's directory, a .gguf file, a hub name, or a trial."),
    ],
    text: Annotated[
        str | None,
        typer.Option(
            help="stdlib, a text, JSONL or Parquet file, a folder, or hf:DATASET.", show_default="a trial's, or stdlib"
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    length: Annotated[
        int | None,
        typer.Option(help="Tokens per window.", show_default="what fits, at most 4 times the training length"),
    ] = None,
    windows: Annotated[int, typer.Option(help="Windows of the text.")] = 8,
    train_length: Annotated[
        int | None,
        typer.Option(help="The length that the model was trained at.", show_default="what its config or trial says"),
    ] = None,
    random_windows: Annotated[
        int, typer.Option(help="Windows of random tokens, of the training length or shorter.")
    ] = 16,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Still the slow pairs, cut by cut, and report the loss.")
    ] = False,
    snapshots: Annotated[bool, typer.Option(help="Look at a trial's snapshots too, when there are any.")] = True,
    stream_layers: Annotated[
        bool, typer.Option("--stream-layers", help="Keep the layers on disk: for a model larger than memory.")
    ] = False,
    layers: Annotated[
        str | None,
        typer.Option(help="The layers to measure, as 0,5,11.", show_default="all, or those that there is time for"),
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="A budget of time: what fits is planned, said, and read. 0 sets no limit.")
    ] = 5.0,
    plan: Annotated[
        Path | None, typer.Option(help="The folder of an earlier report, whose windows are read again.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Begin anew, not after the stages of a run that was stopped.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the random tokens and samples.")] = 0,
    data: Annotated[
        str | None,
        typer.Option(
            help="Of an image model: glyphs, fashion-mnist, or a folder with one folder of image files per class.",
            show_default="a trial's, or glyphs",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Of an image model: height and width of its images in pixels, as 112x448.",
            show_default="the model's own",
        ),
    ] = None,
    images: Annotated[int, typer.Option(help="Of an image model: how many images.")] = 64,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The folder of the report.")] = Path("runs/inspect"),
) -> None:
    """See how a checkpoint uses positions: which frequencies, at which distances, by which heads.

    Draws the figures of HoPE (2410.21216) and p-RoPE (2410.06205) for any decoder, at any length, without ever holding
    a matrix of tokens x tokens. It reads q and k where they reach attention, and what biases, scores and scales make of
    their product: what they add, and which heads forget. It never changes the model. Of an image model it shows which
    axes and frequencies each head uses, and maps of its attention.
    """
    begun = time.perf_counter()  # what is imported here takes its part of the minutes
    from whorl.inspection.reporting import run
    from whorl.sources import IMAGES_READ, read_by

    logging.getLogger("whorl").setLevel(logging.WARNING)
    read = [read_by(model) for model in models]
    if IMAGES_READ in read:
        _refuse(context, OF_TEXTS, "texts", instead=OF_IMAGES)
        _inspect_images(
            models, data=data, size=size, images=images, minutes=minutes, seed=seed, device=device, out=out, begun=begun
        )
        return
    _refuse(context, OF_IMAGES, "images", instead=OF_TEXTS)
    try:
        results = run(
            models, text=text, tokenizer=tokenizer, length=length, windows=windows, train_length=train_length,
            random_windows=random_windows, ablate=ablate, snapshots=snapshots, stream_layers=stream_layers,
            layers=_numbers(layers), minutes=minutes, plan=plan, force=force, seed=seed, device=device, out=out,
            stage=_Stages().stage, planned=_say_plan, begun=begun,
        )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(f"whorl: interrupted; what was read is in {out}, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    _say(results, out, [] if train_length else models)


def _refuse(context: typer.Context, options: tuple[str, ...], takes: str, instead: tuple[str, ...]) -> None:
    """Raises ValueError where one of these options was given, which is of models that read something else."""
    sources = {name: context.get_parameter_source(name) for name in options}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        named, others = f"--{given[0].replace('_', '-')}", ", ".join(f"--{name.replace('_', '-')}" for name in instead)
        raise ValueError(f"{named} is for models of {takes}, and this is none; try {others}")


def _inspect_images(models: list[str], out: Path, **how: Any) -> None:
    from whorl.inspection.image_reporting import run
    from whorl.reports.image_inspection import findings

    try:
        results = run(models, out=out, stage=_Stages().stage, **how)
    except KeyboardInterrupt as error:
        typer.echo(f"whorl: interrupted; {error or 'nothing was read yet'}", err=True)
        raise typer.Exit(130) from None
    terminal = console()
    for result in results:
        settings = result.summary.settings
        terminal.print(said("\n", (result.name, "bold")))
        terminal.print(
            f"{settings.images:,} images of {settings.rows} x {settings.columns} patches ({settings.data})"
            + f", of {settings.asked:,}: the time was up (--minutes)" * (settings.images < settings.asked)
        )
        terminal.print(*(f"  - {finding}" for finding in findings(result)), sep="\n")
        terminal.print("", str(result), sep="\n")
    terminal.print(f"\nthe maps: {out / 'report.html'}")


def _numbers(layers: str | None) -> list[int] | None:
    if layers is None:
        return None
    try:
        return [int(number) for number in layers.split(",")]
    except ValueError:
        raise ValueError(
            f"--layers takes numbers of layers with commas between them, as 0,5,11, got {layers!r}"
        ) from None


def _say_plan(plan: Plan, goes_on: bool) -> None:
    """What will be read, before it is."""
    from whorl.inspection.planning import in_words

    terminal = console()
    of = f" of {plan.minutes:g} minutes" if plan.minutes else ""
    terminal.print(f"the plan{of}{', of a run that goes on (--force plans anew)' if goes_on else ''}: {in_words(plan)}")
    for left in plan.left_out:
        terminal.print(f"  - left out: {left}")


def _say(results: list[Inspection], out: Path, asked: list[str]) -> None:
    """The findings, as the report opens with them; asked: the models whose training length was not given."""
    from whorl.reports.inspection import findings
    from whorl.sources import source

    terminal = console()
    for result, name in zip_longest(results, asked):
        terminal.print(said("\n", (result.name, "bold")))
        if name is not None:
            told = source(name).tells_length
            terminal.print(f"trained at {result.train_length:,} tokens, {told} says (--train-length)")
        first, *others = (str(finding) for finding in findings(result))
        terminal.print(first, *(f"  - {other}" for other in others), sep="\n")
    terminal.print(f"\nthe figures: {out / 'report.html'}")


class _Stages:
    """A bar for each stage on a terminal, a line elsewhere."""

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[Callable[[int], None]]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        terminal = console()
        if not terminal.is_terminal:
            terminal.print(f"{name} ({steps})")
            yield lambda done: None
            return
        columns: list[Any] = [
            TextColumn("{task.description:32}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        ]
        with Progress(*columns, console=terminal) as bars:
            task = bars.add_task(name, total=steps)
            yield lambda done: bars.advance(task, done)
