"""Which spectrum scores which query, where that depends on the length of the context.

The spectrum (of dynamic NTK, LongRoPE) follows from the query's own position p: its context is the p + 1 tokens up to
it. Keys are cached as they are, and rotated once for each distinct spectrum among the queries. So cached decoding
equals a full forward, and a row of a batch does not depend on a longer one. Positions that have axes count no tokens,
and go without (`whorl.attaching.plan` refuses them). Stock does something else: the longest row
of a batch sets the spectrum for all, and a cached key keeps the rotation that it got when it came. The two agree where
no row is longer than the original length.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import torch

from whorl.encodings import Scaled, Spectrum
from whorl.numerics import math_dtype
from whorl.ops import Tables, rotation_tables

KEPT = 1 << 22  # entries of tables for keys that are kept for the layers that share them


class SameSpectrum(NamedTuple):
    """Queries that are scored under one spectrum; all of them lie in first .. last - 1."""

    spectrum: Spectrum
    mine: torch.Tensor  # [batch or 1, last - first]: which of these they are
    first: int
    last: int


class Contexts:
    """The spectra of one forward's queries, each found from the query's position, and the tables that layers share."""

    def __init__(self, positions: torch.Tensor) -> None:
        self.positions = positions
        self.queries: dict[tuple[Scaled, int], list[SameSpectrum]] = {}
        self.tables: dict[tuple[Spectrum, torch.dtype], list[tuple[torch.Tensor, Tables]]] = {}
        self.entries = 0  # of all these tables

    def of(self, encoding: Scaled, head_dim: int) -> list[SameSpectrum]:
        """The distinct spectra of these queries: those at position p see a context of p + 1 tokens."""
        if (encoding, head_dim) not in self.queries:
            found = self._as_long(encoding, head_dim) if self.positions.is_meta else self._found(encoding, head_dim)
            self.queries[encoding, head_dim] = found
        return self.queries[encoding, head_dim]

    def _found(self, encoding: Scaled, head_dim: int) -> list[SameSpectrum]:
        scaling = next(scaling for scaling in encoding.settled if scaling.length_dependent)
        contexts = self.positions.clamp(min=0) + 1  # OPT gives padding the position -1
        lengths = contexts.unique().tolist()
        found = []
        while lengths:
            shortest, longest = lengths[0], scaling.same_up_to(lengths[0])
            mine = (contexts >= shortest) & (contexts <= longest)
            at = mine.any(0).nonzero()
            first, last = int(at[0]), int(at[-1]) + 1
            spectrum = encoding.spectrum_at(head_dim, shortest)
            found.append(SameSpectrum(spectrum, mine[:, first:last].clone(), first, last))
            lengths = lengths[bisect_right(lengths, longest) :]
        return found

    def _as_long(self, encoding: Scaled, head_dim: int) -> list[SameSpectrum]:
        """On the meta device, where nobody knows positions: one spectrum, that of the last of a text of so many."""
        _, tokens = self.positions.shape
        all_of_them = torch.ones_like(self.positions, dtype=torch.bool)
        return [SameSpectrum(encoding.spectrum_at(head_dim, tokens), all_of_them, 0, tokens)]

    def tables_of(self, spectrum: Spectrum, positions: torch.Tensor, dtype: torch.dtype) -> Tables:
        """`rotation_tables`, kept for the layers that ask for the same; the oldest go first."""
        key = spectrum, math_dtype(dtype)
        for at, tables in self.tables.get(key, ()):
            if _same(at, positions):
                return tables
        tables = rotation_tables(spectrum, positions, dtype)
        self.tables.setdefault(key, []).append((positions, tables))
        self.entries += tables.cos.numel()
        while self.entries > KEPT and (oldest := next(iter(self.tables))) != key:
            self.entries -= sum(t.cos.numel() for _, t in self.tables.pop(oldest))
        return tables


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.device == b.device and (a.is_meta or torch.equal(a, b)))
