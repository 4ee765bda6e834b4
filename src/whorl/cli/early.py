"""What can be refused before PyTorch is imported, which takes seconds, and on a busy machine half a minute.

Each command asks all of it again where it does the work, for those who call it from Python.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whorl import outputs
from whorl.checking import check_there
from whorl.conversion.recipes import RECIPES
from whorl.encodings import check_names
from whorl.registry import entry
from whorl.tasks import TASKS
from whorl.training.settings import MODELS

GOES_ON, REPLACES = ("compare", "inspect"), ("extend", "convert", "export")  # how a command treats its folder


def check(command: str, options: dict[str, Any]) -> None:
    """Raises ValueError for names that there are none of, for files that are not there and for a folder that may not be
    written."""
    for notation in (*(options.get("encodings") or ()), options.get("encoding")):
        if notation:
            check_names(notation)
    to = options.get("to")
    if isinstance(to, str) and to not in RECIPES:
        check_names(to)
    if task := options.get("task"):
        entry("task", task.partition(":")[0].strip(), TASKS, "try language")
    for model in (*(options.get("models") or ()), options.get("model")):
        if model and model not in MODELS:
            check_there(model)
    if text := options.get("text"):
        from whorl.data.corpus import check_path_of_text  # NumPy, of which --help has no need

        check_path_of_text(text)
    if (figure := options.get("figure")) is not None and not Path(figure).resolve().parent.is_dir():
        raise ValueError(f"cannot write the figure: there is no folder {Path(figure).parent}; try one that exists")
    if command in GOES_ON:
        outputs.check_goes_on(options["out"], command)
    elif command in REPLACES:
        outputs.check_replaces(options["out"], options["force"])
