"""`whorl extend`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from whorl.cli.progress import Stages
from whorl.console import console, said

if TYPE_CHECKING:
    from whorl.results.extension import Needle

EPILOG = """
[bold]Examples[/]

 whorl extend path/to/model --to 8192 --text book.txt --out longer          the best method that reads all of it\n
 whorl extend path/to/model --to 8192 --method yarn --text book.txt --out longer\n
 whorl extend path/to/model --to 8192 --method base=1e6 --tune 50000000 --lora 16 --text book.txt --out longer

Methods: linear, ntk, ntk-by-parts, yarn, llama3, window. A window reads no further than it reaches: no position is
new to the model, and what lies beyond is lost. So auto measures windows beside the others and never keeps one.
"""

INTERRUPTED = "whorl: interrupted; the same command goes on from the last checkpoint of its training"

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A model's directory, a .gguf file, a hub name, or a trial."),
]
Text = Annotated[
    str | None,
    typer.Option(
        help="stdlib, a text, JSONL or Parquet file, a folder, or hf:DATASET.", show_default="a trial's, or stdlib"
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="A folder with a tokenizer, a .gguf file or a hub name.", show_default="the model's own"),
]
Device = Annotated[
    str | None,
    typer.Option(help="Where to read it: cpu, cuda, cuda:1, ...", show_default="the GPU, if there is one with room"),
]
TrainLength = Annotated[
    int | None, typer.Option(help="The length that the model was trained at.", show_default="its config's or trial's")
]
Out = Annotated[Path, typer.Option(help="The folder to write; it must not hold anything yet.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the folder if whorl wrote it and nothing was added.")]


def extend(
    model: Model,
    to: Annotated[int, typer.Option(help="The context to reach, in tokens.")],
    out: Out,
    method: Annotated[
        str, typer.Option(help="auto, linear, ntk, ntk-by-parts, yarn, llama3, window or base=B.")
    ] = "auto",
    text: Text = None,
    tokenizer: Tokenizer = None,
    windows: Annotated[int, typer.Option(help="Windows of the text, each half a window after the one before.")] = 16,
    train_length: TrainLength = None,
    tolerance: Annotated[float, typer.Option(help="Nats by which auto lets the loss in range rise.")] = 0.2,
    tune: Annotated[int, typer.Option(help="Tokens of training at the new length, afterwards.")] = 0,
    lora: Annotated[
        int, typer.Option(help="Tune adapters of this rank (peft), merged at the end; 0 tunes all weights.")
    ] = 0,
    learning_rate: Annotated[float, typer.Option(help="The tuning's peak learning rate.")] = 2e-4,
    batch_size: Annotated[int, typer.Option(help="Sequences per step of the tuning.")] = 8,
    needle: Annotated[
        bool, typer.Option("--needle", help="Ask for a number stated far back, by depth and length.")
    ] = False,
    force: Force = False,
) -> None:
    """Make a rotary checkpoint read a longer context, without training; measured on text before and after.

    Writes a directory that stock transformers load, wherever they can say the encoding, and loss.png.
    """
    from whorl.conversion.folders import extend as write

    terminal = console()
    try:
        with Stages(terminal) as stages:
            found = write(
                model, to, method=method, text=text, tokenizer=tokenizer, windows=windows, train_length=train_length,
                tolerance=tolerance, tune=tune, lora=lora, learning_rate=learning_rate, batch_size=batch_size,
                needle=needle, out=out, force=force, stage=stages.stage, say=terminal.print,
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(INTERRUPTED if tune else "whorl: interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None
    best, untouched = found.best, found.tried[0]
    table = Table(
        "method",
        "in range",
        "change",
        f"last quarter, to {to:,}",
        "change",
        title="loss, nats per token",
        title_justify="left",
    )
    for one in found.tried:
        style = "bold" if one is best else None if one.whole_context else "dim"
        inside, past = _loss(one.in_range, untouched.in_range), _loss(one.past, untouched.past)
        table.add_row(one.method, *inside, *past, style=style)
    terminal.print(table)
    if found.needle is not None:
        _say_needle(terminal, found.needle)
    if kept := found.layers_as_they_were:
        terminal.print(
            f"layers {', '.join(map(str, kept))} see no further than {found.train_length:,} tokens and stay as they "
            "were: no distance is new to them"
        )
    terminal.print(said("kept: ", (best.method, "bold"), f" ({best.encoding}); {out} loads with {found.loads}"))
    if not best.whole_context:
        terminal.print("a window reads nothing beyond itself: where far context matters, give --method yarn or ntk")
    elif any(not one.whole_context for one in found.tried):
        terminal.print("a window reads nothing beyond itself: measured beside, and kept only with --method window")


def _loss(loss: float, untouched: float) -> tuple[str, str]:
    """The loss, and how much more it is than the untouched model's."""
    if not math.isfinite(loss):
        return "not finite", ""
    return f"{loss:.3f}", f"{loss - untouched:+.3f}" if math.isfinite(untouched) else ""


def _say_needle(terminal: Console, rows: Sequence[Needle]) -> None:
    table = Table("tokens", "depth", "found", "loss", "a guess", "entropy", title="the needle", title_justify="left")
    for row in rows:
        numbers = (f"{number:.2f}" for number in (row.loss, row.without, row.entropy))
        table.add_row(f"{row.length:,}", f"{row.depth:.0%}", f"{row.found:.0%}", *numbers)
    terminal.print(table)
