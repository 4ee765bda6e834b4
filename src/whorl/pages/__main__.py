"""Writes docs/encodings (a page and a figure for each encoding, and their index) and pages.json, in the repository that
it is run in: `python -m whorl.pages [--text]`. --text: without the figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from whorl.files import write_atomically
from whorl.pages import KEPT
from whorl.pages.page import Known, as_data, index, markdown, pages


def texts(repository: Path) -> dict[Path, str]:
    """What is written but for the figures, by where."""
    found = pages(Known.of(repository))
    folder = repository / "docs" / "encodings"
    data = json.dumps(as_data(found.values()), indent=1, ensure_ascii=False) + "\n"
    written = {folder / f"{name}.md": markdown(page) for name, page in found.items()}
    return {**written, folder / "README.md": index(found.values()), KEPT: data}


def write(repository: Path, figures: bool = True) -> None:
    """Writes what is there to write, and removes the pages of encodings that are no more."""
    found = texts(repository)
    folder = repository / "docs" / "encodings"
    for path, text in found.items():
        write_atomically(path, text)
    pictures = {folder / "figures" / f"{path.stem}.png": path.stem for path in found if path.parent == folder}
    pictures.pop(folder / "figures" / "README.png")
    if figures:
        from whorl.pages.figures import picture

        for path, name in pictures.items():
            write_atomically(path, picture(name))
    for path in (*folder.glob("*.md"), *folder.glob("figures/*.png")):
        if path not in found and path not in pictures:
            path.unlink()


if __name__ == "__main__":
    write(Path.cwd(), figures="--text" not in sys.argv)
