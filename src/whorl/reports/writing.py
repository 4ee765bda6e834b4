"""A document as files."""

from pathlib import Path

from whorl.files import write_atomically
from whorl.reports import html, markdown
from whorl.reports.document import Document


def write(document: Document, out: Path, pictures: bool = True) -> list[Path]:
    """Writes `out/report.md`, `out/report.html` and `out/figures/*.png`, each in one step, and returns their paths.

    Without `pictures` report.html alone, which draws its charts itself.
    """
    if not pictures:
        return [write_atomically(out / "report.html", html.render(document))]
    from whorl.reports.png import png

    images = {name: image for chart in document.charts for name, image in png(chart).items()}
    written = [write_atomically(out / "figures" / name, image) for name, image in images.items()]
    written.append(write_atomically(out / "report.md", markdown.render(document)))
    written.append(write_atomically(out / "report.html", html.render(document)))
    return written
