"""A document as files."""

import re
from pathlib import Path

from whorl.files import write_atomically
from whorl.reports import html, markdown
from whorl.reports.document import Document

LINKED = re.compile(r"\]\(figures/([\w.@-]+\.png)\)")


def write(document: Document, out: Path, pictures: bool = True) -> list[Path]:
    """Writes `out/report.md`, `out/report.html` and `out/figures/*.png`, each in one step, and returns their paths.

    Figures of the report that was there before go, where this one has none of their names. Without `pictures`
    report.html alone, which draws its charts itself.
    """
    if not pictures:
        return [write_atomically(out / "report.html", html.render(document))]
    from whorl.reports.png import png

    images = {name: image for chart in document.charts for name, image in png(chart).items()}
    for name in linked_figures(out) - images.keys():
        (out / "figures" / name).unlink(missing_ok=True)
    written = [write_atomically(out / "figures" / name, image) for name, image in images.items()]
    written.append(write_atomically(out / "report.md", markdown.render(document)))
    written.append(write_atomically(out / "report.html", html.render(document)))
    return written


def linked_figures(out: Path) -> set[str]:
    """The files below `out/figures` that a report there links."""
    report = out / "report.md"
    return set(LINKED.findall(report.read_text(encoding="utf-8"))) if report.is_file() else set()


def take_away(out: Path) -> None:
    """Removes a report with its figures, where there is one."""
    for name in linked_figures(out):
        (out / "figures" / name).unlink(missing_ok=True)
    for name in ("report.html", "report.md"):
        (out / name).unlink(missing_ok=True)
