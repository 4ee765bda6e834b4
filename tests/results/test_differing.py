"""What trials did not all run on or with is known by value, with the trials that had it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.results.samples import FINISHED
from whorl.results.differing import differing
from whorl.results.trial import FinishedTrial

PLAIN = FinishedTrial.from_json(FINISHED)


def trial(name: str, versions: dict[str, str] | None = None, **machine: Any) -> FinishedTrial:
    kept = PLAIN.versions | (versions or {})
    return replace(PLAIN, id=name, versions=kept, machine=replace(PLAIN.machine, **machine))


def test_trials_of_one_machine_with_the_same_versions_do_not_differ() -> None:
    assert differing([trial("a"), trial("b", memory_gib=1.0, cores=64)]) == {}, "memory and cores change no digit"
    assert differing([]) == {}


def test_each_value_has_its_trials() -> None:
    found = differing([trial("a"), trial("b", {"torch": "9.9"}), trial("c", cpu="Another CPU", threads=7)])
    assert found == {
        "cpu": {PLAIN.machine.cpu: ("a", "b"), "Another CPU": ("c",)},
        "threads": {str(PLAIN.machine.threads): ("a", "b"), "7": ("c",)},
        "torch": {PLAIN.versions["torch"]: ("a", "c"), "9.9": ("b",)},
    }


def test_cpus_of_one_name_are_told_apart_by_the_instructions_that_not_all_have() -> None:
    found = differing([trial("a", instructions=("avx2", "fma")), trial("b", instructions=("amx_tile", "avx2", "fma"))])
    assert found == {"vector instructions": {"none of these": ("a",), "amx_tile": ("b",)}}


def test_what_an_earlier_version_did_not_write_down_is_no_difference() -> None:
    now = trial("a", {"whorl": "0.1.0"}, instructions=("avx2",), threads=2)
    assert differing([now, trial("b", instructions=(), threads=None)]) == {}
