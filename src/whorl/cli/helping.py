"""What --help shows is what is written: square brackets are text, the lines of a paragraph flow, and a flag has no
type behind it. Epilogs alone are in rich's markup, for their [bold]."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from whorl.comparison.planning import RAY_ADDRESS


class _AsWritten:
    help: str | None
    params: list[Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.help = "\n\n".join(" ".join(text.split()) for text in escape(self.help or "").split("\n\n"))
        for param in self.params:
            if param.help:
                param.help = escape(param.help)

    def get_params(self, ctx: Any) -> Any:
        """Its parameters, --help among them."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
        return params


class Command(_AsWritten, TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads `--ray` alone, before an encoding too, as --ray=auto; `--ray head:6379` has its address."""
        for at, word in enumerate(args):
            if word == "--ray" and not RAY_ADDRESS.fullmatch("".join(args[at + 1 : at + 2])):
                args = [*args[:at], "--ray=auto", *args[at + 1 :]]
        return super().parse_args(ctx, args)


class Group(_AsWritten, TyperGroup):
    pass
