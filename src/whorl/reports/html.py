"""A document as one HTML page that needs no other file and no network: page.html filled with page.css, the blocks, the
charts as JSON, and page.js and charts.js, which draw them in the colours of style.py."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from whorl.reports.axes import ROUNDING
from whorl.reports.document import Block, Bullet, Bullets, Details, Document, Figure, Heading, Paragraph, Row, Table
from whorl.reports.style import DARK, DASHES, LIGHT, MARKS, OPACITY, PRINT, RAMPS, SERIES

HERE = Path(__file__).parent


def render(document: Document) -> str:
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in document.facts)
    return Template(_asset("page.html")).substitute(
        title=escape(document.title),
        subtitle=escape(document.subtitle),
        facts=facts,
        body="\n".join(map(_block, document.blocks)),
        footer=escape(document.footer),
        css=_colours() + _asset("page.css"),
        js=f"const STYLE = {_style()};\n" + _asset("page.js") + _asset("charts.js"),
        charts=embedded_json([{"kind": chart.kind, **_plain(chart)} for chart in document.charts]),
    )


def head(document: Document) -> str:
    """The document's title, its facts and its first findings, as a fragment for a notebook: no style, no script."""
    facts = " · ".join(f"{escape(name)}: {escape(value)}" for name, value in document.facts)
    first = (f"<p>{escape(b.text)}</p>" for b in document.blocks if isinstance(b, Paragraph) and b.style != "note")
    tables = (_table(b) for b in document.blocks if isinstance(b, Table))
    lines = [f"<h3>{escape(document.title)}</h3>", f"<p>{escape(document.subtitle)}</p>", f"<p>{facts}</p>", *first]
    return "\n".join([*lines, next(tables, "")])


def _colours() -> str:
    """The style as variables of CSS, its colours once for each theme; the page follows the reader's."""
    everywhere = {**LIGHT, **{name: str(value) for name, value in OPACITY.items()}}
    everywhere |= {f"{name}-dashes": f"{on:g} {off:g}" for name, (on, off) in DASHES.items()}
    rules = [f":root {{ {_variables(everywhere)} }}"]
    for where, theme in (("(prefers-color-scheme: dark)", DARK), ("print", PRINT)):
        rules.append(f"@media {where} {{ :root {{ {_variables(theme)} }} }}")
    return "\n".join(rules) + "\n"


def _variables(values: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in values.items())


def _style() -> str:
    """What the scripts need of style.py: marks as paths of SVG, and the names of colours."""
    marks = [f"M{'L'.join(f'{x:g} {y:g}' for x, y in corners)}Z" for corners in MARKS]
    return embedded_json({"marks": marks, "series": SERIES, "ramps": RAMPS, "rounding": ROUNDING})


def embedded_json(value: Any) -> str:
    """JSON that is safe inside a script element, with null for what JSON cannot say (NaN, infinity)."""
    text = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text, style):
            role = ' role="note"' if style == "notice" else ""
            return f'<p class="{style}"{role}>{_prose(text)}</p>'
        case Bullets(items):
            return f"<ul>{''.join(map(_bullet, items))}</ul>"
        case Table():
            return _table(block)
        case Figure(chart):
            title, name = escape(chart.title), escape(chart.name)
            return (
                f'<figure class="chart" id="figure-{name}" data-chart="{name}"><figcaption><h3>{title}</h3>'
                f'<p>{escape(chart.caption)}</p></figcaption><noscript><p class="note">This figure is drawn by '
                f"JavaScript; figures/{name}.png shows it as an image.</p></noscript></figure>"
            )
        case Details(title, groups):
            inside = "".join(
                f"<section><h3>{escape(k)}</h3>{_settings(group)}</section>" for k, group in groups.items()
            )
            return f'<details><summary>{escape(title)}</summary><div class="settings">{inside}</div></details>'


def _prose(text: str) -> str:
    """No line ends between a number and what belongs to it."""
    return re.sub(r"(?<=\d) (?=%|[kMG]\b)| (?=±)|(?<=±) ", "&nbsp;", escape(text))


def _bullet(bullet: Bullet) -> str:
    name, title = (escape(part) for part in bullet.see)
    link = f' <a class="see" href="#figure-{name}">{title}</a>' if name else ""
    return f"<li>{_label(bullet.label, bullet.series)} {_prose(bullet.text)}{link}</li>"


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{_cell(text, small)}</th>' for text, small in table.header)
    rows = "".join(map(_row, table.rows))
    label = f'aria-label="{escape(table.caption)}"'
    return (
        f'<p class="caption">{escape(table.caption)}</p><div class="table" tabindex="0" role="region" {label}>'
        f"<table {label}><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(row: Row) -> str:
    (name, small), *values = row.cells
    cells = "".join(f"<td>{_cell(text, below)}</td>" for text, below in values)
    return f'<tr><th scope="row">{_label(name, row.series)}{_cell("", small)}</th>{cells}</tr>'


def _cell(text: str, small: str) -> str:
    """Where a table is wide, its cells take several lines."""
    return _prose(text) + (f" <small>{_prose(small)}</small>" if small else "")


def _label(text: str, series: int | None) -> str:
    """A name in bold behind the mark that it has in the charts (page.js draws the mark)."""
    if not text:
        return ""
    mark = f'<span class="key" data-series="{series}"></span>' if series is not None else ""
    return f"{mark}<strong>{escape(text)}</strong>"


def _settings(group: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in group.items())
    return f"<dl>{rows}</dl>"


def _plain(value: Any) -> Any:
    """What JSON can say; numbers to six digits, and of a chart's parts only the fields that are not empty."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if is_dataclass(value):
        told = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {name: _plain(item) for name, item in told if item is not None and item is not False and item != ()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
