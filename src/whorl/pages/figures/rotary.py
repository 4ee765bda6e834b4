"""Encodings that rotate q and k: how many tokens each pair takes for a turn, and what is done to pairs besides."""

from __future__ import annotations

import math

import numpy as np
import torch

from whorl.encodings import Spectrum
from whorl.encodings.spectrum import rope_frequencies
from whorl.pages.figures.drawing import LOG_DISTANCE, Subject, curves, log_places
from whorl.reports.chart import Chart, CurveChart
from whorl.reports.spectrum import wavelengths

HEAD, BASE, LENGTH = 128, 10000.0, 4096
ROPE = "rope"


def turning(subject: Subject) -> Chart:
    """A spectrum's pairs beside RoPE's, in a head of 128 channels that is trained at 4,096 tokens."""
    from whorl.encodings import Known, parse

    encoding = parse(subject.notation).filled(Known(base=BASE, train_length=LENGTH)).with_defaults()
    based = hasattr(encoding, "base")
    head = HEAD if based else 2 * len(encoding.argument("values"))
    found = encoding.spectrum(head)
    assert found is not None
    rope = Spectrum(rope_frequencies(BASE, HEAD), HEAD)
    view = wavelengths(found, LENGTH, (ROPE, rope) if based and found != rope else None)
    share = f", p = {encoding.p:g}" if hasattr(encoding, "p") else ""
    title = f"{subject.name}: {len(found.turning)} of {head // 2} pairs turn{share}{' (base 10,000)' if based else ''}"
    return CurveChart(subject.name, title, "", (("pair", view.axes[0]),), (view,))


def moved(subject: Subject, start: tuple[float, ...], frequencies: torch.Tensor, of: str) -> Chart:
    """Pairs whose frequencies are learned: where they start, and an example of where they may go."""
    pairs = len(start)
    return curves(
        subject,
        f"each pair's frequency is free to move ({of})",
        ("pair", "linear"),
        ("tokens per turn", "log"),
        range(pairs),
        [(ROPE, [math.tau / f for f in start]), ("an example", math.tau / frequencies.detach().double().numpy())],
        other=ROPE,
        markers=True,
    )


def channelwise(subject: Subject, frequencies: tuple[float, ...]) -> Chart:
    """A frequency for each channel, where RoPE has one for each two."""
    width, first = len(frequencies), 24
    pairs = [math.tau / f for f in rope_frequencies(BASE, width) for _ in range(2)][:first]
    return curves(
        subject,
        f"a frequency for each channel (the first {first} of {width})",
        ("channel", "linear"),
        ("tokens per turn", "log"),
        range(first),
        [(f"{ROPE}: two channels alike", pairs), (subject.name, [math.tau / f for f in frequencies[:first]])],
        other=f"{ROPE}: two channels alike",
        markers=True,
    )


def decaying(subject: Subject, rates: tuple[float, ...]) -> Chart:
    """What pairs are multiplied by, by the distance."""
    distances = log_places(1, 8192)
    shown = np.linspace(0, len(rates) - 1, 5).astype(int)
    return curves(
        subject,
        f"what a pair is multiplied by (pair 0 of {len(rates)} is the fastest)",
        LOG_DISTANCE,
        ("factor", "linear"),
        distances,
        [(f"pair {pair}", np.exp(rates[pair] * np.array(distances))) for pair in shown],
    )
