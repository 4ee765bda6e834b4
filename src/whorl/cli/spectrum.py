"""`whorl spectrum`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whorl.checking import check_numbers
from whorl.console import console

if TYPE_CHECKING:
    from whorl.encodings import Encoding, Spectrum

EPILOG = """
[bold]Examples[/]

 whorl spectrum rope                                        RoPE at head dim 128 and 4,096 tokens, as in Llama 2\n
 whorl spectrum rope --base 5e5 --train-length 8192         as in Llama 3\n
 whorl spectrum hope --head-dim 64 --train-length 1024\n
 whorl spectrum p-rope:p=0.75 --head-dim 256 --train-length 8192 --figure spectrum.png\n
 whorl spectrum hope-2d:grid=14@14 --head-dim 64            on the grid of an image, in patches

docs/theory.md defines every number and says which paper it is from.
"""

SUMS = 2**28  # ten seconds or so
SIDE = 14  # of a grid, where an encoding does not say it: an image of 224 pixels in patches of 16


def spectrum(
    encoding: Annotated[
        str, typer.Argument(metavar="ENCODING", help="An encoding that turns, in whorl's notation: p-rope:p=0.5.")
    ],
    head_dim: Annotated[int, typer.Option(help="Channels per head.")] = 128,
    base: Annotated[float | None, typer.Option(help="The rotary base.", show_default="the encoding's own")] = None,
    train_length: Annotated[int, typer.Option(help="L, the tokens that the model is trained at.")] = 4096,
    figure: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the curves into this file.")] = None,
) -> None:
    """Show an encoding's frequencies, pair by pair, and what they allow: contexts and bounds, without a model."""
    if figure is not None and figure.suffix != ".png":
        other = figure.with_suffix(".png") if figure.name else "spectrum.png"
        raise ValueError(f"--figure draws a PNG, got {str(figure)!r}; try {other}")
    if figure is not None and not figure.resolve().parent.is_dir():  # before PyTorch is imported
        raise ValueError(f"cannot write the figure: there is no folder {figure.parent}; try one that exists")
    from whorl.reports.spectrum import LIMIT

    check_numbers(head_dim=head_dim, train_length=train_length)
    if (sums := head_dim // 2 * max(train_length, LIMIT)) > SUMS:
        raise ValueError(
            f"head dim {head_dim:,} and train-length {train_length:,} are {sums:.1e} cosines, one for each pair and "
            f"distance; at most {SUMS:.1e} are computed: give a smaller one"
        )
    chosen, turning = _rotary(encoding, base, train_length)
    found = turning.spectrum(head_dim)
    if found is None or found.vectors:
        raise ValueError(
            f"{turning} turns by angles that are learned, of each token, or of several axes at once, and has no list "
            "of frequencies to show; try rope, hope or p-rope:p=0.5"
        )
    terminal = console(soft_wrap=False)
    if found.number_of_axes > 1:
        if figure is not None:
            raise ValueError(
                f"--figure draws what goes by one axis, of tokens, and {chosen} goes by a grid; leave it out"
            )
        sides = getattr(turning, "grid", None) or getattr(turning, "scale", None) or (SIDE, SIDE)
        title = f"{chosen}, head dim {head_dim}, trained on {sides[0]} x {sides[1]} patches"
        for part in _on_grid(title, found, sides):
            terminal.print(part)
        return
    table = _table(f"{chosen}, head dim {head_dim}, L = {train_length:,} tokens", found, train_length)
    own = turning.argument("base") if hasattr(turning, "base") else None
    list_of_facts = _facts(found, own, train_length, getattr(turning, "cut", 1.0))
    if figure is not None:
        _draw(figure, f"{chosen}, head dim {head_dim}", found, train_length)
    terminal.print(table)
    terminal.print(list_of_facts)
    if figure is not None:
        terminal.print(f"drawn: {figure}")


def _rotary(notation: str, base: float | None, train_length: int) -> tuple[Encoding, Encoding]:
    """The encoding with the base and length that were given, and that part of it which turns."""
    from whorl.encodings import Known, Layers, Sum, parse

    encoding = parse(notation)
    if isinstance(encoding, Layers):
        raise ValueError(f"{encoding} differs by layer; ask for one of its encodings: {encoding.rules[0]}")
    encoding = encoding.filled(Known(train_length=train_length))
    parts = list(encoding.parts if isinstance(encoding, Sum) else (encoding,))
    at = next((i for i, part in enumerate(parts) if "rotate" in part.kinds), None)
    if at is None:
        raise ValueError(f"{encoding} turns nothing and has no spectrum; try rope, hope or p-rope:p=0.5")
    if base is not None:
        if not hasattr(parts[at], "base"):
            raise ValueError(f"--base {base:g} was given, and {parts[at].name} has no base; leave it out")
        if "base=" in notation:
            raise ValueError(f"the base stands in {notation!r} and in --base {base:g}; give it once")
        parts[at] = dataclasses.replace(parts[at], base=base)  # type: ignore[call-arg]
    return (parts[0] if len(parts) == 1 else Sum(tuple(parts))), parts[at]


def _table(title: str, found: Spectrum, train_length: int) -> Any:
    """One row per pair: frequency, wavelength, turns within L, state."""
    from rich.table import Table

    from whorl.reports.spectrum import states

    table = Table(title=title, title_justify="left")
    for column in ("pair", "radians / token", "tokens / turn", "turns in L"):
        table.add_column(column, justify="right")
    table.add_column("state")
    rows = zip(found.frequencies, found.wavelengths, states(found, train_length), strict=True)
    for i, (frequency, wavelength, state) in enumerate(rows):
        turns = train_length / wavelength
        numbers = (f"{frequency:.6g}", f"{wavelength:,.1f}", f"{turns:,.2f}" if turns >= 0.1 else f"{turns:.2g}")
        table.add_row(str(i), *(numbers if frequency else ("0", "-", "0")), state)
    return table


def _on_grid(title: str, found: Spectrum, sides: tuple[int, int]) -> list[Any]:
    """A row per pair of an encoding of images, and how many turn: along which side, in patches."""
    from rich.table import Table

    from whorl.encodings.grid import ACROSS, COLUMN, X, by_patch
    from whorl.encodings.spectrum import turns_fully
    from whorl.reports.spectrum import FULLY, NEVER, STILL

    table = Table(title=title, title_justify="left")
    for column in ("pair", "by", "radians / patch", "patches / turn", "turns in the grid"):
        table.add_column(column, justify="right")
    table.add_column("state")
    never, counts = NEVER.replace(" in L", " in the grid"), dict.fromkeys((FULLY, NEVER, STILL), 0)
    for i, (along, axis) in enumerate(zip(by_patch(found.by_axis, *sides), found.axes, strict=True)):
        across = axis in (COLUMN, X, ACROSS)
        side, own = sides[across], along[across]
        state = STILL if not own else FULLY if turns_fully(own, side) else NEVER
        counts[state] += 1
        wavelength = 2 * math.pi / own if own else math.inf
        numbers = (f"{own:.6g}", f"{wavelength:,.1f}", f"{side / wavelength:.2g}") if own else ("0", "-", "0")
        table.add_row(str(i), "columns" if across else "rows", *numbers, never if state == NEVER else state)
    facts = Table(show_header=False, box=None, pad_edge=False)
    for words, state in (("turn fully in the grid", FULLY), ("turn, and never fully", NEVER), ("do not rotate", STILL)):
        facts.add_row(words, f"{counts[state]} of {len(found.frequencies)} pairs")
    return [table, facts]


def _facts(found: Spectrum, base: float | None, train_length: int, cut: float) -> Any:
    """What theory says of this spectrum, and of RoPE with its base, as a table of two columns. cut: of HoPE."""
    from rich.table import Table

    from whorl import theory
    from whorl.reports.spectrum import FULLY, LIMIT, STILL, states

    pairs, L = found.head_dim // 2, f"{train_length:,}"
    slow = theory.out_of_range(found, train_length)
    does = states(found, train_length)
    unpaired = found.head_dim - found.width
    largest = theory.max_context(found, LIMIT)
    negative = theory.negatives(found, train_length)
    rows = [
        (f"turn fully in {L} tokens", f"{does.count(FULLY)} of {pairs} pairs"),
        ("turn, and never fully", f"{len(slow)} of {pairs} pairs: {_ranges(slow)}" if slow else "none"),
        (
            "do not rotate",
            f"{does.count(STILL)} of {pairs} pairs" + (f", and {unpaired} channels in no pair" if unpaired else ""),
        ),
        (
            "largest context by B(m)",
            f"{largest:,} tokens: the first m with B(m) < 0" if largest else f"no B(m) < 0 up to m = {LIMIT:,}",
        ),
        ("distances below L with B(m) < 0", f"{negative:,} of {L}"),
    ]
    if base is None:
        rows.append(("HoPE, critical dimension", "follow from a base, and this spectrum is given without one"))
    else:
        kept = theory.hope_pairs(train_length, found.head_dim, base, cut)
        p = theory.hope_p(train_length, found.head_dim, base, cut)
        rows.append(
            (
                f"HoPE for {L} tokens" + (f", cut {cut:g}" if cut != 1 else ""),
                f"K = {kept} of {pairs} pairs; p-rope:p={p!r}",
            )
        )
        if found.width:
            critical = theory.critical_dimension(train_length, found.width, base)
            rows.append(("critical dimension", f"{critical} of {found.width} channels"))
        rows.append(
            ("extrapolation bound", _bound(found, base, train_length) if slow else "none: no pair is out of range")
        )
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(*row)
    return table


def _bound(found: Spectrum, base: float, train_length: int) -> str:
    """The extrapolation bound as trained, and of a RoPE of base 10,000 that is tuned with this base."""
    from whorl.encodings.config import format_value
    from whorl.theory import extrapolation_bound

    trained = extrapolation_bound(base, train_length, found.width, trained_base=base)
    words = f"{trained:,.0f} tokens, trained with base {format_value(base)}"
    if base == 10000:
        return words
    tuned = extrapolation_bound(base, train_length, found.width)
    reach = f"{tuned:,.0f} tokens" if math.isfinite(tuned) else "none"
    return f"{words}; {reach}, trained with base 10000 and tuned with {format_value(base)}"


def _ranges(numbers: tuple[int, ...]) -> str:
    """(0, 1, 2, 7) -> "0-2, 7"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def _draw(path: Path, title: str, found: Spectrum, train_length: int) -> None:
    from whorl.reports import png
    from whorl.reports.spectrum import chart

    try:
        path.write_bytes(png.image(png.draw(chart(title, found, train_length)), dpi=110))
    except OSError as error:
        raise ValueError(f"cannot write the figure: {error}; try a folder that exists") from None
