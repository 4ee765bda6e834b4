"""The table of encodings in README.md, made from the registry: `python -m whorl.cli.readme` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

from whorl.cli.list_ import rows

BEGIN, END = "<!-- encodings: begin -->", "<!-- encodings: end -->"


def table() -> str:
    """The registry as a Markdown table."""
    lines = ["| name | arguments | effect | what it does | paper |", "| --- | --- | --- | --- | --- |"]
    for name, arguments, effect, title, paper in rows():
        shown = f"`{arguments}`" if arguments else ""
        lines.append(f"| `{name}` | {shown} | {effect} | {title} | {paper} |")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """The README with its table renewed. Raises ValueError when the marks are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "README.md")
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
