"""Which families take an encoding: what docs/families.md says, which the contract's tests make."""

from __future__ import annotations

import re
from collections.abc import Mapping

from whorl.hosts import ENCODERS

LINK = "([which](../families.md))"


def taken_by(families: str) -> dict[str, str]:
    """A sentence for each encoding that the page of families has."""
    columns, rows = _table(families, "| family |")
    found: dict[str, str] = {}
    for at, name in enumerate(columns):
        cells = {family: row[at] for family, row in rows.items()}
        if set(cells.values()) <= {"stock", "whorl", *_numbers(cells)} and "whorl" in cells.values():
            found[name] = _told(cells)
    _, rows = _table(families, "| encoding |")
    for name, (decoders, encoders, but) in rows.items():
        families_but = ", ".join(f"`{one.partition(' ')[0]}`" for one in but.split(", "))
        but = f"; not {families_but}" if decoders.split()[0] != decoders.split()[-1] else ""
        found[name] = f"{decoders} decoder families and {encoders} encoders{but} {LINK}. Saved under whorl's own key."
    found = _composed(families) | found
    columns, rows = _table(families[families.index("## Images") :], "| family |")
    for at, name in enumerate(columns[2:], 2):  # after what families have of their own
        takes = sum(row[at] in ("stock", "whorl") for row in rows.values())
        of_images = f"{takes} of {len(rows)} families of image models {LINK}."
        found[name] = f"{found[name]} And {of_images}" if name in found else of_images
    return found


def _composed(page: str) -> dict[str, str]:
    """A sentence for each encoding of the compositions that are under the contract."""
    line = next(line for line in page.split("\n") if line.startswith("Of compositions, "))
    found = {}
    for composition in re.findall(r"`([^`]+)`", line):
        but = re.findall(rf"^- `{re.escape(composition)}` on (\w+):", page, flags=re.MULTILINE)
        words = f"but {', '.join(f'`{family}`' for family in but)} " if but else ""
        for part in re.split(r"[+/]", composition):
            found[part.partition(":")[0]] = f"all families {words}as `{composition}` {LINK}."
    return found


def in_stock_terms(families: str, name: str) -> int:
    """On how many decoder families it is saved in stock terms."""
    columns, rows = _table(families, "| family |")
    if name not in columns:
        return 0
    return sum(rows[family][columns.index(name)] == "stock" for family in rows if family not in ENCODERS)


def _told(cells: Mapping[str, str]) -> str:
    decoders = {family: cell for family, cell in cells.items() if family not in ENCODERS}
    encoders = {family: cell for family, cell in cells.items() if family in ENCODERS}
    takes = [sum(cell in ("stock", "whorl") for cell in group.values()) for group in (decoders, encoders)]
    but = [f"`{family}`" for family, cell in cells.items() if cell not in ("stock", "whorl")]
    not_on = f"; not {', '.join(but)}" if but else ""
    stock = sum(cell == "stock" for cell in decoders.values())
    saved = f"Saved in stock terms on {stock}, " if stock else "Saved "
    own = "on the others under whorl's own key." if stock else "under whorl's own key."
    return (
        f"{takes[0]} of {len(decoders)} decoder families and {takes[1]} of {len(encoders)} encoders{not_on} {LINK}. "
        f"{saved}{own}"
    )


def _numbers(cells: Mapping[str, str]) -> set[str]:
    return {cell for cell in cells.values() if cell.isdigit()}


def _table(page: str, begins: str) -> tuple[list[str], dict[str, list[str]]]:
    """The columns of a Markdown table after the first, and its rows by that."""
    lines = page[page.index(begins) :].split("\n\n")[0].split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = {row[0]: row[1:] for row in cells[2:] if len(row) == len(cells[0])}
    return cells[0][1:], rows
