"""What can be refused before PyTorch is imported, which takes seconds, and on a busy machine half a minute.

Each command asks all of it again where it does the work, for those who call it from Python.
"""

from __future__ import annotations

from typing import Any

from whorl import outputs
from whorl.checking import check_there
from whorl.cli.parts import parts
from whorl.comparison.planning import halves
from whorl.conversion.recipes import RECIPES
from whorl.encodings import check_names
from whorl.evaluation.probes import check_names as check_probes
from whorl.hub import check_on_hub
from whorl.tasks import check_name
from whorl.training.settings import MODELS


def check(command: str, options: dict[str, Any]) -> None:
    """Raises ValueError for names that there are none of, for files that are not there and for a folder that may not be
    written."""
    for notation in (*(options.get("encodings") or ()), options.get("encoding")):
        for part in halves(notation or "") if command == "compare" else (notation,):
            if part:
                check_names(part)
    to = options.get("to")
    if isinstance(to, str) and to not in RECIPES:
        check_names(to)
    for task in (options.get("task"), *(share.rpartition("=")[0] for share in options.get("mix") or ())):
        if task:
            check_name(task)
    if (probes := options.get("probes")) is not None:
        check_probes(parts(probes))
    models = options.get("models") or ()
    if len(models) > 2:
        raise ValueError(f"inspect shows one model, or two side by side, got {len(models)}")
    for model in (*models, options.get("model")):
        if model is not None and model not in MODELS and (model or command != "compare"):
            check_there(model)
            if command != "compare":  # which makes new models, of a config's file
                check_on_hub(model)
    if (text := options.get("text")) is not None:
        from whorl.data.corpus import check_path_of_text  # NumPy, of which --help has no need

        check_path_of_text(text)
    if command in outputs.REPLACED:
        outputs.check_replaces(options["out"], options["force"])
    elif (out := options.get("out")) is not None:
        outputs.check_goes_on(out, command)
