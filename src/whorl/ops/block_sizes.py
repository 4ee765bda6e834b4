"""How much is made at once, by what goes block by block."""

from __future__ import annotations

ON_GPU = 32 << 20, 2048  # bytes of logits and the most queries; there the time goes into starting operations


def block_size(device: str, room: int, most: int) -> tuple[int, int]:
    """Bytes of logits in a block, and the most queries: `room` and `most` on a CPU, whose caches they are for."""
    return (room, most) if device == "cpu" else ON_GPU
