"""x"""

from __future__ import annotations

import sys


def in_accelerates_sharding() -> bool:
    """Whether accelerate asks, which takes every entry of a sharded model's state dict for a sharded parameter."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fsdp2_load_full_state_dict":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
