"""`whorl convert`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from whorl.cli.extend import INTERRUPTED, Force, Model, Out, Text, Tokenizer, TrainLength
from whorl.cli.progress import Stages
from whorl.console import console, said

EPILOG = """
[bold]Examples[/]

 whorl convert path/to/model --to hope --train-length 2048 --heal 5000000 --text book.txt --out converted\n
 whorl convert path/to/model --to p-rope:p=0.5 --heal 5000000 --gradual 0.5 --out converted\n
 whorl convert path/to/model --to drope --heal 5000000 --batch-size 32 --out dropped
"""


def convert(
    model: Model,
    to: Annotated[
        str,
        typer.Option(
            help="The encoding (hope, p-rope:p=0.5, nope, ...), or drope, which drops the rotation and sets the "
            "training as its paper does. A base that is not given is the model's own."
        ),
    ],
    out: Out,
    heal: Annotated[
        int | None, typer.Option(help="Tokens of training after the swap.", show_default="drope's 31.5 billion")
    ] = None,
    text: Text = None,
    tokenizer: Tokenizer = None,
    train_length: TrainLength = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The healing's peak learning rate.", show_default="5e-4, drope's 3e-4")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences per step.", show_default="32, drope's 512")] = None,
    gradual: Annotated[
        float, typer.Option(help="The share of the healing over which pairs stop turning, band by band.")
    ] = 0.0,
    reach: Annotated[
        int | None,
        typer.Option(
            help="The loss is taken at the training length and at so many times it.",
            show_default="4, or as far as the text's documents go",
        ),
    ] = None,
    windows: Annotated[int, typer.Option(help="Evaluation windows.")] = 48,
    control: Annotated[bool, typer.Option(help="Give the untouched model the same training, to compare with.")] = True,
    seed: Annotated[int, typer.Option(help="Of the order of the text.")] = 0,
    force: Force = False,
) -> None:
    """Swap the encoding of a trained model and heal it by training on, beside the untouched model trained alike."""
    from whorl.conversion.folders import convert as write

    terminal = console()
    try:
        with Stages(terminal) as stages:
            found = write(
                model, to, heal=heal, text=text, tokenizer=tokenizer, train_length=train_length, reach=reach,
                windows=windows, out=out, learning_rate=learning_rate, batch_size=batch_size, gradual=gradual,
                control=control, seed=seed, force=force, stage=stages.stage, say=terminal.print,
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(INTERRUPTED, err=True)
        raise typer.Exit(130) from None
    table = Table("", *(f"{n:,} tokens" for n in found.before), title="loss, nats per token", title_justify="left")
    for label, losses in found.measured().items():
        table.add_row(label, *(_loss(loss) for loss in losses.values()))
    terminal.print(table)
    if any(loss is None for losses in found.measured().values() for loss in losses.values()):
        terminal.print("out of reach: past the last position that the model has learned")
    if found.within is not None:
        terminal.print(
            f"layers {', '.join(map(str, found.within.layers))} were converted too, which see no further than the "
            "training length" + (f"; --to {found.within.leave} leaves them" if found.within.leave else "")
        )
    if hurt := found.hurt_by_healing():
        terminal.print(
            f"the healing made it worse at {', '.join(f'{n:,}' for n in hurt)} tokens; try a lower --learning-rate "
            f"than {found.learning_rate:g}, a --text that is more like what the model was trained on, or more --heal"
        )
    if found.control_diverged is not None:
        terminal.print(f"the untouched model, trained alike: {found.control_diverged}")
    if train_length is None:
        terminal.print(found.train_length_from)
    if found.filled:
        terminal.print(found.filled)
    terminal.print(said(f"{found.from_} is now ", (found.to, "bold"), f"; {out} loads with {found.loads}"))


def _loss(loss: float | None) -> str:
    return "out of reach" if loss is None else f"{loss:.3f}"
