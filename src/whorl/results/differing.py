"""What the trials of a comparison ran on and with, where this is not the same for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from whorl.results.trial import FinishedTrial


def differing(trials: Sequence[FinishedTrial]) -> dict[str, dict[str, tuple[str, ...]]]:
    """By what differs (`cpu`, `torch`, ...), each value that it had, with the ids of the trials that had it.

    That of which last digits depend: device, CPU, its vector instructions (those that not all have), threads, versions.
    What an earlier version of whorl did not write down is left out.
    """
    had = [set(trial.machine.instructions) for trial in trials if trial.machine.instructions]
    shared = set.intersection(*had) if had else set()
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for trial in trials:
        for name, value in _place(trial, shared).items():
            ids = found.setdefault(name, {})
            ids[value] = (*ids.get(value, ()), trial.id)
    return {name: values for name, values in found.items() if len(values) > 1}


def _place(trial: FinishedTrial, shared: set[str]) -> dict[str, str]:
    machine = trial.machine
    place = {"device": machine.device, "cpu": machine.cpu}
    if machine.instructions:
        own = [name for name in machine.instructions if name not in shared]
        place["vector instructions"] = ", ".join(own) or "none of these"
    if machine.threads is not None:
        place["threads"] = str(machine.threads)
    return place | trial.versions
