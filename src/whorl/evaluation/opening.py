"""The model that is evaluated: opened by its name, with its own encoding or another in the place of it."""

from __future__ import annotations

from dataclasses import dataclass

from whorl import finite
from whorl.attaching import attach
from whorl.attaching.filling import filled, what_was_filled
from whorl.attaching.reading import told
from whorl.attaching.seams import attached_encoding
from whorl.data.losses import check_predicts_next
from whorl.encodings import Encoding
from whorl.hosts import OpenHost, open_host
from whorl.sources import Source


@dataclass(frozen=True)
class Opened:
    """A decoder in eval mode.

    train_length  tokens that it was trained at
    trained_with  its own encoding, where another was attached; None: none was
    filled        in words, which arguments of that one its config filled
    """

    host: OpenHost
    train_length: int
    trained_with: str | None
    filled: str

    @property
    def encoding(self) -> str:
        """What it is read with."""
        return told(self.host.model)


def opened(found: Source, encoding: Encoding | None, train_length: int | None = None) -> Opened:
    """train_length: None takes the trial's or the config's.

    Raises ValueError for what is no causal language model, weights that are not finite, and an encoding that the
    model cannot have.
    """
    model = found.model()
    host = open_host(model)
    check_predicts_next(host)
    finite.check_weights(model)
    length = found.length(model, train_length)
    if encoding is None:
        return Opened(host, length, None, "")
    own = attached_encoding(host.model)
    before, given = told(host.model), filled(host, encoding, length, own)
    words = what_was_filled(host, encoding, given, length, own)
    attach(host.model, given)
    return Opened(host, length, before, words)
