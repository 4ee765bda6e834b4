"""The command line. One file per subcommand; a ValueError becomes one line on stderr and exit status 2."""

from __future__ import annotations

import os
import sys

import typer

from whorl.cli import compare, convert, doctor, export, extend, inspect_, list_, spectrum

app = typer.Typer(
    name="whorl",
    help="Positional encodings for transformers: attach any encoding to any model, compare encodings fairly, and see "
    "how a checkpoint uses positions.",
    epilog="Start with [bold]whorl list[/], then [bold]whorl compare --tokens 500000 --out runs/first[/].",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compare", epilog=compare.EPILOG)(compare.compare)
app.command("inspect", epilog=inspect_.EPILOG)(inspect_.inspect)
app.command("extend", epilog=extend.EPILOG)(extend.extend)
app.command("convert", epilog=convert.EPILOG)(convert.convert)
app.command("export", epilog=export.EPILOG)(export.export)
app.command("doctor", epilog=doctor.EPILOG)(doctor.doctor)
app.command("spectrum", epilog=spectrum.EPILOG)(spectrum.spectrum)
app.command("list")(list_.list_encodings)


def main() -> None:
    """Runs the command line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except ValueError as error:
        print(f"whorl: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
