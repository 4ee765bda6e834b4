"""What people and files say of an encoding is read, and read back the same, or refused with a ValueError."""

from __future__ import annotations

import json
from typing import Any

from fuzz_amount import TIMES
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.encodings import REGISTRY, SCALINGS, from_dict, parse

WORDS = [
    *REGISTRY,
    *SCALINGS,
    "sum",
    "layers",
    "scaled",
    "full_attention",
    "base",
    "train_length",
    "size",
    "p",
    "values",
]
PIECES = st.sampled_from([*WORDS, ":", "=", ",", "+", "/", "~", "@", " ", "-", "1", "0.5", "1e999", "nan", "10" * 200])
NUMBERS = st.one_of(
    st.integers(1, 1 << 20), st.floats(1.001, 1e9), st.floats(0, 1), st.floats(allow_nan=True), st.integers()
)


@settings(max_examples=400 * TIMES, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map("".join)))
def test_any_text_is_an_encoding_or_a_value_error(text: str) -> None:
    try:
        encoding = parse(text)
    except ValueError:
        return
    assert parse(str(encoding)) == encoding
    assert from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding


ROTARY = st.one_of(
    st.builds(lambda b: f"rope:base={b!r}", st.floats(1.001, 1e12)),
    st.builds(lambda n, b: f"hope:train_length={n},base={b!r}", st.integers(1, 1 << 30), st.floats(1.001, 1e12)),
    st.builds(lambda p, k: f"p-rope:p={p!r},keep={k}", st.floats(0, 1), st.sampled_from(["fastest", "slowest"])),
    st.builds(lambda f: f"partial-rope:fraction={f!r}", st.sampled_from([0.25, 0.5, 1.0])),
    st.just("nope"),
)
SCALED = st.builds(
    lambda r, f, n: f"{r}~{n.format(f)}", ROTARY.filter(lambda r: r != "nope"), st.floats(1.01, 64),
    st.sampled_from(["linear:factor={!r}", "ntk:factor={!r}", "yarn:factor={!r},original=512"]),
)  # fmt: skip
TERMS = st.builds(
    lambda r, b: "+".join([r, *sorted(b)]),
    st.one_of(ROTARY, SCALED),
    st.sets(st.sampled_from(["alibi", "t5", "kerple", "window:size=7"]), max_size=2),
)


@settings(max_examples=300 * TIMES, deadline=None)
@given(st.lists(TERMS, min_size=1, max_size=4).map("/".join))
def test_what_is_written_is_read_back(notation: str) -> None:
    try:
        encoding = parse(notation)
    except ValueError:
        return
    assert parse(str(encoding)) == encoding
    assert hash(parse(str(encoding))) == hash(encoding)
    assert from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding


FORM = ["parts", "rules", "inner", "scalings"]
KEYS = [*FORM, "base", "train_length", "size", "p", "factor", "values"]
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(WORDS), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["name", *KEYS]), inner, max_size=4),
        st.builds(
            lambda name, rest: {**rest, "name": name},
            st.sampled_from(WORDS),
            st.dictionaries(st.sampled_from(KEYS), inner),
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=500 * TIMES, deadline=None)
@given(JSON)
def test_any_json_is_an_encoding_or_a_value_error(record: Any) -> None:
    try:
        encoding = from_dict(record)
    except ValueError:
        return
    assert from_dict(encoding.to_dict()) == encoding
