"""The probes by name: what is asked, and where it is defined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whorl.checking import check_list
from whorl.registry import entry, look_up

if TYPE_CHECKING:
    from whorl.evaluation.base import Probe

PROBES = {
    "loss": "whorl.evaluation.loss:Loss",
    "segment-copy": "whorl.evaluation.segment_copy:SegmentCopy",
    "decoy": "whorl.evaluation.decoy:Decoy",
    "niah": "whorl.evaluation.niah:Niah",
}
"""By name, in the order in which they are asked."""
ASKS = {
    "loss": "of the same tokens with more and more context",
    "segment-copy": "going on with a segment from far back",
    "decoy": "telling a statement from a recent one of its form",
    "niah": "a number stated once in the text",
}
"""What each is, in the words of the help."""
HINT = "there is none that is like it"


def check_names(names: Any) -> list[str]:
    """The names of probes, each once. Raises ValueError for one that there is none of. Nothing is imported."""
    asked = list(dict.fromkeys(check_list("probes", names, '["loss"]')))
    if not asked:
        raise ValueError(f"no probe was asked for; give some of {', '.join(PROBES)}")
    for name in asked:
        entry("probe", name, PROBES, HINT)
    return [name for name in PROBES if name in asked]


def get(name: str) -> type[Probe]:
    """The probe of this name. Raises ValueError, with what may have been meant, where there is none."""
    found: type[Probe] = look_up("probe", name, PROBES, HINT)
    return found
