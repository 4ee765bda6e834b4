"""A comparison as commands, one for each trial, for a scheduler that runs them where and when it likes.

Every line goes into the folder that the comparison was planned in, since paths are kept as they were written, and runs
one trial with all settings said. A line that is run twice finds its trial finished; any number may run at a time.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from whorl.comparison.planning import Planned
from whorl.files import write_atomically
from whorl.training.settings import Settings


def write(
    path: Path, trials: Sequence[Planned], settings: Settings, out: Path, snapshots: int, at_rates: bool = False
) -> None:
    """Writes the commands of these trials, a line each. `settings` must be resolved: a machine that runs a line decides
    nothing. at_rates: each trial has a learning rate of its own."""
    rates = [[t.settings.recipe(t.seed).learning_rate] if at_rates else [] for t in trials]
    lines = [
        command(settings, out, snapshots, [t.label], [t.seed], own, only="trials")
        for t, own in zip(trials, rates, strict=True)
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def command(
    settings: Settings,
    out: Path,
    snapshots: int,
    encodings: Sequence[str],
    seeds: Sequence[int],
    learning_rates: Sequence[float] = (),
    *,
    only: str,
) -> str:
    """`whorl compare` with these settings, as a shell reads it; `learning_rates` in place of theirs."""
    words = [sys.executable, "-m", "whorl", "compare", *encodings, f"--seeds={','.join(map(str, seeds))}"]
    if learning_rates:
        settings = replace(settings, learning_rate=None)
        words.append(f"--learning-rates={','.join(map(str, learning_rates))}")
    words += [f"--out={out}", *options(settings), f"--only={only}"]
    if snapshots:
        words.append(f"--snapshots={snapshots}")
    return f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(words)}"


def options(settings: Settings) -> list[str]:
    """The settings that are not the defaults, as options of the command line."""
    words = []
    for field in fields(settings):
        value, option = getattr(settings, field.name), f"--{field.name.replace('_', '-')}"
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(option)
        elif field.name == "lengths":
            words.append(f"{option}={','.join(value)}")
        else:
            words += [f"{option}={one}" for one in (value if isinstance(value, tuple) else (value,))]
    return words
