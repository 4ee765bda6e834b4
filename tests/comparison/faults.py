"""Trials of some encodings fail in other processes, each in a way of its own.

Python imports `sitecustomize` as it starts, from a folder that stands in PYTHONPATH. This one changes the training when
it is imported; processes that never import it (Ray's own) are as they were.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FAULTS = {"alibi": "raise", "nope": "exit", "sinusoidal": "kill", "t5": "kill once"}
SITE = """
import importlib.util, os, signal, sys, threading, time
from pathlib import Path

FAULTS, HERE = {faults!r}, Path(__file__).parent


class Changes:
    def find_spec(self, name, path=None, target=None):
        if name != "whorl.training.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            train = module.train

            def trains(model, recipe, dataset, folder, *others):
                for encoding, fault in FAULTS.items():
                    if folder.name.startswith(encoding):
                        with open(HERE / "tries", "a") as tries:
                            print(encoding, file=tries)
                        happen(fault, encoding)
                return train(model, recipe, dataset, folder, *others)

            module.train = trains

        spec.loader.exec_module = exec_module
        return spec


def happen(fault, encoding):
    if fault == "raise":
        raise RuntimeError("a kernel is missing")
    if fault == "exit":
        os._exit(3)
    if fault == "wait":
        (HERE / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    if fault == "kill" or (HERE / "tries").read_text().split().count(encoding) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


sys.meta_path.insert(0, Changes())
"""


def planted(folder: Path, monkeypatch: pytest.MonkeyPatch, faults: dict[str, str]) -> Path:
    """Plants the faults in the processes that are started from now on, until `monkeypatch.undo`. Gives the file that
    names the encoding of each try; one that waits leaves its process in `pid` beside it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE.replace("{faults!r}", repr(faults)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return folder / "tries"
