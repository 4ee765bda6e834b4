"""`whorl evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from whorl.cli.extend import Device, Tokenizer
from whorl.cli.parts import parts
from whorl.cli.progress import Stages
from whorl.console import console, said
from whorl.evaluation.probes import ASKS, PROBES

EPILOG = """
[bold]Examples[/]

 whorl evaluate path/to/model --text book.txt               at 0.25, 0.5, 1 and 2 times its training length\n
 whorl evaluate path/to/model --encoding hope               with another encoding in the place of its own\n
 whorl evaluate model.gguf --train-length 2048 --lengths 512,1x,2x,4x --windows 4\n
 whorl evaluate runs/compare/trials/rope-s0-… --probes loss,segment-copy

The same command goes on where a killed run stopped, and asks what is missing where probes are added.
docs/evaluate.md defines every number.
"""


def _told() -> str:
    return "; ".join(f"{name}, {about}" for name, about in ASKS.items())


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's directory, a .gguf file, a hub name, or a trial.")
    ],
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Attach this encoding first (hope, rope~yarn:factor=4, ...); nothing is trained.",
            show_default="the model's own",
        ),
    ] = None,
    probes: Annotated[str, typer.Option(help=f"What to ask: {_told()}.")] = ",".join(PROBES),
    lengths: Annotated[
        str, typer.Option(help="Lengths in tokens, or as multiples of the training length.")
    ] = "0.25x,0.5x,1x,2x",
    train_length: Annotated[
        int | None,
        typer.Option(help="The length that the model was trained at.", show_default="its config's or trial's"),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="stdlib, a text, JSONL or Parquet file, a folder, or hf:DATASET.", show_default="a trial's, or stdlib"
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    windows: Annotated[int, typer.Option(help="Windows of the text, as long as the longest length.")] = 8,
    sequences: Annotated[int, typer.Option(help="Sequences of each probe that writes its own.")] = 16,
    tail: Annotated[int, typer.Option(help="Target tokens at the end of each window.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the windows and of what is drawn.")] = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The folder of results.json and the report.")] = Path("runs/evaluate"),
    force: Annotated[bool, typer.Option("--force", help="Begin anew, not after what is in the folder.")] = False,
) -> None:
    """Ask a checkpoint, without training, what it does in and past its training length.

    The loss of the same tokens with more and more context, and whether it finds and copies what stands far back.
    """
    from whorl.evaluation import evaluate as run

    terminal = console()
    try:
        with Stages(terminal) as stages:
            found = run(
                model, encoding=encoding, probes=parts(probes), lengths=parts(lengths), train_length=train_length,
                text=text, tokenizer=tokenizer, windows=windows, sequences=sequences, tail=tail, seed=seed,
                device=device, out=out, force=force, stage=stages.stage, say=terminal.print,
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(f"whorl: interrupted; what was measured is in {out}, and the same command goes on", err=True)
        raise typer.Exit(130) from None
    from whorl.reports.evaluation import findings, unreachable
    from whorl.results.evaluation import ABOUT

    header, rows = found.table()
    table = Table(title=f"{header[0]}, {found.encoding}", title_justify="left")
    table.add_column("")
    for length, title in zip(found.asked.lengths, header[1:], strict=True):
        table.add_column(title + (" (trained)" if length == found.train_length else ""), justify="right")
    for row in rows:
        table.add_row(*row)
    terminal.print(table)
    terminal.print(f"trained at {found.train_length:,} tokens, {found.train_length_from} (--train-length)")
    why = [f"{ABOUT[probe].title}: {reason}" for probe in found.rows for reason in unreachable(found, probe)]
    for finding in [*findings(found), *why]:
        terminal.print(f"  - {finding}")
    terminal.print(said("report: ", (str(out / "report.html"), "bold"), f"; numbers: {out / 'results.json'}"))
