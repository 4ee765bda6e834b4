"""The table of implementations: a new one is a file and a line, and the front asks it nothing but its two questions."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch
from attention_cases import at, data, modules

import whorl.ops
from whorl.encodings import parse
from whorl.ops import biased_attention, choose, rotate, rotation_tables
from whorl.ops.implementations import ATTENTIONS, ROTATIONS, Row

ROTATION = """
from whorl.ops.impl import reference

ran = []

def missing(problem):
    return None if problem.layout == "half" else f"it turns halves, and the layout is {problem.layout}"

def run(problem, tensors, out, cos, sin):
    ran.append(problem)
    how = {"layout": problem.layout, "heads_dim": problem.heads_dim}
    for x, y in zip(tensors, out, strict=True):
        y.copy_(reference.rotate_one(x, cos, problem.sign * sin, problem.first, problem.width, **how))
"""

ATTENTION = """
ran = []

def missing(problem):
    return None if problem.softcap is None else "it has no soft cap"

def run(problem):
    ran.append(problem)
    q, v = problem.q, problem.v
    return v.mean(2, keepdim=True).repeat_interleave(q.shape[1] // v.shape[1], 1).repeat(1, 1, q.shape[2], 1)
"""


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation and an attention from two files that whorl does not have, first in the tables."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, code, implementations in (
        ("new_rotation", ROTATION, ROTATIONS),
        ("new_attention", ATTENTION, ATTENTIONS),
    ):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.setattr(implementations, "rows", {"new": Row(name, None), **implementations.rows})
        monkeypatch.setattr(implementations, "names", (*implementations.names, "new"))
        monkeypatch.setattr(implementations, "tried_on", {})
        monkeypatch.setitem(implementations, "new", importlib.import_module(name))


def test_a_new_rotation_is_a_file_and_a_line(new: None) -> None:
    import new_rotation

    q, k = torch.randn(2, 4, 5, 16, requires_grad=True), torch.randn(2, 2, 5, 16)
    tables = rotation_tables(parse("rope").spectrum(16), torch.arange(5))
    assert choose("auto", torch.device("cpu")) == "new"
    for inplace in (False, True):
        expected = rotate(q, k, tables, impl="reference")
        for got, wanted in zip(rotate(q * 1, k.clone(), tables, inplace=inplace), expected, strict=True):
            torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(
        *(torch.autograd.grad(rotate(q, None, tables, impl=impl)[0].sin().sum(), q)[0] for impl in ("new", "cpu"))
    )
    assert [problem.sign for problem in new_rotation.ran] == [1, 1, 1, -1]
    with pytest.raises(ValueError, match="impl='new' cannot run here: it turns halves, and the layout is interleaved;"):
        rotate(q, k, tables, layout="interleaved", impl="new")
    rotate(q, k, tables, layout="interleaved")
    assert len(new_rotation.ran) == 4, "auto went on to the next"


def test_a_new_attention_is_a_file_and_a_line(new: None) -> None:
    import new_attention

    q, k, v = data(5, 5, 8, torch.float32)
    how = {"biases": modules("alibi"), "scale": 1.0, **at(torch.arange(5)[None])}
    out, weights = biased_attention(q, k, v, **how)
    assert weights is None
    torch.testing.assert_close(out, v.mean(2, keepdim=True).repeat_interleave(2, 1).expand_as(q))
    assert len(new_attention.ran) == 1
    with pytest.raises(ValueError, match="impl='new' cannot run here: it has no soft cap; take impl='reference'"):
        biased_attention(q, k, v, **how, softcap=2.0, impl="new")
    biased_attention(q, k, v, **how, softcap=2.0)
    assert len(new_attention.ran) == 1, "auto went on to the next"


def test_nothing_before_the_table_names_an_implementation() -> None:
    """Neither imported, nor as a word in code; docstrings say what users may ask for. A loop that no table chooses is
    that of the module of its name."""
    folder = Path(whorl.ops.__file__).parent
    names = {name for table in (ROTATIONS, ATTENTIONS) for name in (*table.rows, *_files(table))} - {"cpu"}
    for path in sorted(folder.glob("*.py")):
        if path.name == "implementations.py":
            continue
        code = re.sub(r'""".*?"""|#.*', "", path.read_text(), flags=re.DOTALL)
        found = {name for name in {*names, "cpu_attention", "native"} if re.search(rf"\b{name}\b", code)}
        assert not found, f"{path.name} knows {', '.join(found)}"
        assert set(re.findall(r"whorl\.ops\.impl import (.*)", code)) <= {"reference", path.stem}, path.name


def _files(table) -> list[str]:
    return [row.module.rpartition(".")[2] for row in table.rows.values()]
