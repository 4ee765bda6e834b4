"""A copy of whorl with files and lines added, as a newcomer adds them, and commands run on that copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import whorl


class Copy:
    """whorl's package in a folder of its own, to be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder / "src" / "whorl"
        shutil.copytree(Path(whorl.__file__).parent, self.package, ignore=shutil.ignore_patterns("__pycache__"))

    def add_file(self, path: str, text: str) -> None:
        assert not (self.package / path).exists()
        (self.package / path).write_text(text.lstrip())

    def add_line(self, path: str, registry: str, line: str) -> None:
        """One line, the first of a dictionary that begins as `registry` says."""
        before = (self.package / path).read_text()
        assert before.count(f"{registry} = {{\n") == 1, f"{registry} is in {path}"
        (self.package / path).write_text(before.replace(f"{registry} = {{\n", f"{registry} = {{\n    {line}\n"))

    def run(self, *arguments: str) -> str:
        """What Python prints, run with these arguments in the folder, with the copy for its whorl."""
        environment = {**os.environ, "PYTHONPATH": str(self.package.parent), "COLUMNS": "200"}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
