"""`whorl export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = """
[bold]Examples[/]

 whorl export runs/first/trials/hope-0 --out hope                        for transformers without whorl\n
 whorl export path/to/model --format gguf --out hope-gguf                model.gguf, for llama.cpp\n
 whorl export path/to/model --format gguf --dtype f16 --out half --force

What was written is loaded and compared before it gets its name; nothing is left when that fails. docs/export.md says
what each format can say.
"""


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's directory, a hub name, or a trial of whorl compare.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The directory to write; it must not hold anything yet.")],
    format: Annotated[str, typer.Option(metavar="hf|gguf", help="hf: for transformers; gguf: for llama.cpp.")] = "hf",
    dtype: Annotated[
        str | None, typer.Option(metavar="f32|f16|bf16", help="Of a GGUF's matrices.", show_default="f32")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace DIR if whorl wrote it and nothing was added.")
    ] = False,
) -> None:
    """Write a model with its encoding for runtimes that do not know whorl: stock transformers, llama.cpp."""
    from whorl import outputs
    from whorl.runtimes.exporting import export as write
    from whorl.sources import source

    found = source(model)
    outputs.check_replaces(out, force, found.reads)
    try:
        tokenizer = found.tokenizer()
    except ValueError as error:
        typer.echo(f"whorl: goes without a tokenizer: {' '.join(str(error).split())}", err=True)
        tokenizer = None
    done = write(found.model(), out, format=format, tokenizer=tokenizer, dtype=dtype, force=force)
    typer.echo(f"{done.path}: {format}, positional encoding {done.encoding}")
    typer.echo(f"tokenizer: {done.tokenizer}")
    typer.echo(done.checked)
