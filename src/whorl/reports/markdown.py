"""A document as Markdown, its figures beside it as files."""

import re

from whorl.reports.document import Block, Bullet, Bullets, Details, Document, Figure, Heading, Paragraph, Table


def render(document: Document) -> str:
    facts = " · ".join(f"{_text(name)}: {_text(value)}" for name, value in document.facts)
    parts = [f"# {_text(document.title)}", _text(document.subtitle), facts, *map(_block, document.blocks)]
    return "\n\n".join(part for part in [*parts, f"*{_text(document.footer)}*"] if part) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_text(text)}"
        case Paragraph(text, style):
            return f"> **{_text(text)}**" if style == "notice" else _text(text)
        case Bullets(items):
            return "\n".join(map(_bullet, items))
        case Table():
            return _table(block)
        case Figure(chart):
            name = chart.name
            image = f"[![{_text(chart.title)}](figures/{name}.png)](figures/{name}@2x.png)"
            return f"{image}\n\n{_text(chart.caption)}"
        case Details(title, groups):
            sections = [
                f"### {_text(name)}\n\n| setting | value |\n| --- | --- |\n"
                + "\n".join(f"| {_text(str(key))} | {_text(str(value))} |" for key, value in group.items())
                for name, group in groups.items()
            ]
            return "\n\n".join([f"## {_text(title)}", *sections])


def _bullet(bullet: Bullet) -> str:
    label = f"**{_text(bullet.label)}** " if bullet.label else ""
    name, title = bullet.see
    return f"- {label}{_text(bullet.text)}" + (f" ([{_text(title)}](figures/{name}.png))" if name else "")


def _table(table: Table) -> str:
    header = [f"{_text(text)} ({_text(small)})" if small else _text(text) for text, small in table.header]
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for row in table.rows:
        rows.append([f"{_text(text)} ({_text(small)})" if small else _text(text) for text, small in row.cells])
    return f"{_text(table.caption)}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text(text: str) -> str:
    """Text on one line whose characters all stand for themselves."""
    return re.sub(r"([\\`*|\[\]])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")
