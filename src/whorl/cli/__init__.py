"""The command line. One file per subcommand; a ValueError becomes one line on stderr and exit status 2."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any, TextIO

import typer

from whorl import __version__
from whorl.checking import shown
from whorl.cli import compare, convert, doctor, evaluate, export, extend, inspect_, list_, spectrum
from whorl.cli.helping import Command, Group
from whorl.cli.needs import checked
from whorl.files import disk_full

app = typer.Typer(
    name="whorl",
    cls=Group,
    help="Positional encodings for transformers: attach any encoding to any model, compare encodings fairly, and see "
    "how a checkpoint uses positions.",
    epilog="Models: Llama, Mistral, Qwen, Gemma, Phi, GPT-NeoX, OLMo, Falcon, GPT-2, BERT and more, all named by "
    "[bold]whorl list[/]. Start there, then [bold]whorl compare --tokens 500000 --out runs/first[/].",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command, epilog in (
    ("compare", compare.compare, compare.EPILOG),
    ("inspect", inspect_.inspect, inspect_.EPILOG),
    ("evaluate", evaluate.evaluate, evaluate.EPILOG),
    ("extend", extend.extend, extend.EPILOG),
    ("convert", convert.convert, convert.EPILOG),
    ("export", export.export, export.EPILOG),
    ("doctor", doctor.doctor, doctor.EPILOG),
    ("spectrum", spectrum.spectrum, spectrum.EPILOG),
    ("list", list_.list_encodings, list_.EPILOG),
):
    app.command(name, cls=Command, epilog=epilog)(checked(name, command))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"whorl {__version__}")
        raise typer.Exit


@app.callback()
def whorl(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    started = os.environ.get("WORLD_SIZE", "1")  # torchrun's word, and accelerate's
    if started != "1" and context.invoked_subcommand != "compare":
        raise ValueError(
            f"whorl {context.invoked_subcommand} runs in one process, and torchrun or accelerate started {started}, "
            "which would write the same files; run it without them (whorl compare runs in several)"
        )


REFUSALS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR)  # of a path


class _Unread:
    """Standard output that goes on when its reader has gone (`whorl compare | head`): the work is not for him alone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            return self._drop(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop("")

    def _drop(self, text: str) -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main() -> None:
    """Runs the command line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():  # where transformers' bars would be a line for each of their steps
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    sys.stdout, sys.stderr = _Unread(sys.stdout), _Unread(sys.stderr)
    try:
        app()
    except ValueError as error:
        print(f"whorl: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if disk_full(error):
            said = "the disk, a quota or a file is full; make room, and the same command goes on or begins anew"
        elif isinstance(error, OSError) and error.errno in REFUSALS:
            said = f"{error.strerror}: {shown(str(error.filename))}; give another path, or change its permissions"
        elif type(error).__name__ == "OutOfMemoryError":  # PyTorch's, which is not imported for this
            said = (
                f"the GPU has too little memory: {str(error).split('. ')[0]}; try shorter lengths, or another device "
                "(inspect and evaluate: --device cpu; CUDA_VISIBLE_DEVICES= for all). What was finished is kept"
            )
        else:
            raise
        print(f"whorl: {said}", file=sys.stderr)
        sys.exit(2)
