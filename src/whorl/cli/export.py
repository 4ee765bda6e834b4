"""`whorl export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from whorl.cli.extend import Tokenizer
from whorl.runtimes import RUNTIMES

EPILOG = """
[bold]Examples[/]

 whorl export runs/first/trials/TRIAL --out hope                         for transformers without whorl\n
 whorl export path/to/model --for vllm --out hope                        refused where vLLM would drop the encoding\n
 whorl export path/to/model --for llama.cpp --out hope-gguf              model.gguf, as --runtime gguf\n
 whorl export path/to/model --runtime gguf --dtype f16 --out half --force

What was written is loaded and compared before it gets its name; nothing is left when that fails. docs/export.md says
what each runtime can say, docs/runtimes.md what each engine carries. --format is another name of --runtime.
"""

_LISTING = json.loads(Path(__file__).with_name("listing.json").read_text(encoding="utf-8"))
_ENGINES = _LISTING.get("engines", [])
_TITLES = _LISTING.get("runtimes", {})  # none where the listing, which imports this, is about to be made anew


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model's directory, a .gguf file, a hub name, or a trial."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The directory to write; it must not hold anything yet.")],
    runtime: Annotated[
        list[str],
        typer.Option(
            "--runtime",
            "--format",
            metavar="|".join(RUNTIMES),
            help=f"What will run the model; {', '.join(f'{n}: {_TITLES.get(n, n)}' for n in RUNTIMES)}.",
            show_default="hf, or what --for reads",
        ),
    ] = [],  # noqa: B006
    engine: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="|".join(_ENGINES),
            help="The engine that will run it: says first whether it carries the encoding, and refuses where not.",
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="f32|f16|bf16", help="Of a GGUF's matrices.", show_default="f32")
    ] = None,
    tokenizer: Tokenizer = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace DIR if whorl wrote it and nothing was added.")
    ] = False,
) -> None:
    """Write a model with its encoding for runtimes that do not know whorl."""
    from whorl import outputs
    from whorl.runtimes import engines
    from whorl.runtimes.exporting import check_can
    from whorl.runtimes.exporting import export as write
    from whorl.sources import source

    def say_of(empty: Any) -> None:
        if engine is not None:
            typer.echo(str(engines.carries(engine, empty)))

    if engine is not None:
        engines.engine(engine)
    if len(set(runtime)) > 1:
        raise ValueError(f"one runtime at a time, got {' and '.join(dict.fromkeys(runtime))}; export once for each")
    found = source(model, tokenizer=tokenizer, device="cpu")
    outputs.check_replaces(out, force, found.reads)
    chosen, options = next(iter(runtime), None), {} if dtype is None else {"dtype": dtype}
    if (empty := found.without_weights()) is not None:
        say_of(empty)
        check_can(chosen, empty, engine, **options)
    try:
        reader = found.tokenizer()
    except ValueError as error:
        if tokenizer is not None:
            raise
        typer.echo(f"whorl: goes without a tokenizer: {' '.join(str(error).split())}", err=True)
        reader = None
    loaded = found.whole(typer.echo)
    if empty is None:
        say_of(loaded)
    done = write(loaded, out, runtime=chosen, engine=engine, tokenizer=reader, force=force, **options)
    typer.echo(f"{done.path}: for {done.runtime.title}, positional encoding {done.encoding}")
    typer.echo(f"tokenizer: {done.tokenizer}")
    typer.echo(str(done.checked))
    if done.note:
        typer.echo(f"note: {done.note}")
