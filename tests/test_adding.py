"""What CONTRIBUTING.md promises: an encoding is one file and one line, a runtime too, a family one line.

(A task: tests/tasks.) Each is added to a copy of whorl and then used from end to end.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import whorl
from whorl.testing import tiny_model

from .adding import Copy

ENCODING = '''
"""Every n-th pair turns, from the fastest on. Nobody's paper."""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.config import of_host, require_positive_int
from whorl.encodings.rope import Rotary
from whorl.encodings.spectrum import Spectrum, rope_frequencies


@dataclass(frozen=True)
class Sparse(Rotary):
    """Turns pairs 0, n, 2n, ... of a head. The others do not rotate.

    n         of which one turns
    base      as in `RoPE`
    fraction  as in `RoPE`
    """

    n: int = 2
    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()

    name = "sparse"
    title = "every n-th pair turns"
    paper = "0000.00000"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive_int("n", self.n)

    def spectrum(self, head_dim: int) -> Spectrum:
        own = rope_frequencies(self.argument("base"), self.width(head_dim))
        return Spectrum(tuple(f if i % self.n == 0 else 0.0 for i, f in enumerate(own)), head_dim)
'''

RUNTIME = '''
"""A runtime that reads NumPy archives: weights by name, and one frequency per pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whorl.attaching import encoding_of
from whorl.hosts import head_dim_of, open_host
from whorl.runtimes.base import Check, Runtime, Written


def _frequencies(model: Any) -> Any:
    host = open_host(model)
    spectrum = encoding_of(model).spectrum(head_dim_of(model.config, host.attentions[0]))
    return None if spectrum is None else np.array(spectrum.frequencies)


@dataclass(frozen=True)
class Arrays(Runtime):
    """`model.npz`, compressed or not."""

    compressed: bool = False

    name = "arrays"
    title = "the runtime of arrays"

    def refuse(self, model: Any) -> str | None:
        return f"{encoding_of(model)} has no frequencies" if _frequencies(model) is None else None

    def write(self, model: Any, folder: Path, tokenizer: Any) -> Written:
        weights = {name: weight.float().numpy() for name, weight in model.state_dict().items()}
        save = np.savez_compressed if self.compressed else np.savez
        save(folder / "model.npz", frequencies=_frequencies(model), **weights)
        return Written(folder, str(encoding_of(model)), "it has no place for one")

    def check(self, model: Any, written: Written) -> Check:
        read = np.load(written.folder / "model.npz")
        wanted = {"frequencies": _frequencies(model), **{k: w.numpy() for k, w in model.state_dict().items()}}
        return Check("arrays read back", max(float(abs(read[k] - w).max()) for k, w in wanted.items()), 0.0)
'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    made = Copy(tmp_path_factory.mktemp("added"))
    made.add_file("encodings/sparse.py", ENCODING)
    made.add_line("encodings/__init__.py", "REGISTRY", '"sparse": "whorl.encodings.sparse:Sparse",')
    made.add_file("runtimes/arrays.py", RUNTIME)
    made.add_line("runtimes/__init__.py", "RUNTIMES", '"arrays": "whorl.runtimes.arrays:Arrays",')
    return made


ATTACHED = """
import pytest, torch, whorl
from whorl.testing import logits_and_budget, max_error, tiny_model

ids = torch.arange(2 * 40).reshape(2, 40) * 31 % 97
model = tiny_model("llama")
stock = model(ids).logits
rope, budget = logits_and_budget(whorl.attach(model, "sparse:n=1"), ids)
assert max_error(rope, stock) < budget, "all pairs turn at the model's own base"
assert str(whorl.encoding_of(whorl.attach(model, "sparse+alibi"))) == "sparse:base=10000+alibi"
whorl.attach(model, "sparse:n=3~yarn:factor=4,original=16/nope")
logits, budget = logits_and_budget(model, ids)
assert max_error(logits, stock) > 100 * budget
model.save_pretrained("model")
again = whorl.load("model")
assert whorl.encoding_of(again) == whorl.encoding_of(model)
assert torch.equal(again(ids).logits, logits)
assert torch.equal(whorl.detach(model)(ids).logits, stock)
with pytest.raises(ValueError, match="n must be a whole number of at least 1"):
    whorl.parse("sparse:n=0")
"""


PAGE = """
from whorl.encodings import get
from whorl.pages import facts, reading
from whorl.pages.figures import picture

assert reading.does(get("sparse")) == "Turns pairs 0, n, 2n, ... of a head. The others do not rotate."
assert [name for name, _, _ in reading.arguments(get("sparse"))] == ["n", "base", "fraction"]
assert "others that rotate q and k" in facts.goes_with("sparse")
assert picture("sparse").startswith(b"\\x89PNG")
"""


def test_a_rotary_encoding_is_one_file_and_one_line(copy: Copy) -> None:
    copy.run("-c", ATTACHED)
    copy.run("-c", PAGE)
    readme = copy.folder / "README.md"
    readme.write_text((Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8"))
    copy.run("-m", "whorl.cli.listing", str(readme))
    row = "| `sparse` | `n=2, base=10000*, fraction*` | rotates q and k | every n-th pair turns | arXiv 0000.00000 |"
    assert row in readme.read_text(encoding="utf-8")
    assert "every n-th pair turns" in copy.run("-m", "whorl", "list")


EXPORTED = """
import numpy as np, pytest, whorl
from whorl.testing import tiny_model

model = whorl.attach(tiny_model("llama"), "sparse:n=2")
done = whorl.export(model, "first", runtime="arrays", compressed=True)
print(repr(done))
assert np.load("first/model.npz")["frequencies"].tolist()[1::2] == [0.0] * 4
for encoding, options, why in (("alibi", {}, "alibi has no frequencies"), ("rope", {"bits": 4}, "it takes compressed")):
    with pytest.raises(ValueError, match=why):
        whorl.export(whorl.attach(model, encoding), "second", runtime="arrays", **options)
whorl.attach(model, "sparse:n=2").save_pretrained("model-for-arrays")
"""


def test_a_runtime_is_one_file_and_one_line(copy: Copy) -> None:
    said = "for the runtime of arrays, sparse:base=10000; arrays read back differ by 0; rounding explains up to 0"
    assert copy.run("-c", EXPORTED) == f"first: {said}\n"
    assert not (copy.folder / "second").exists()
    out = copy.run("-m", "whorl", "export", "model-for-arrays", "--runtime", "arrays", "--out", "third")
    assert "third: for the runtime of arrays, positional encoding sparse:base=10000\n" in out
    assert sorted(path.name for path in (copy.folder / "third").iterdir()) == [".whorl.json", "model.npz"]


FAMILY = """
import torch, whorl
from whorl.testing import logits_and_budget, max_error, tiny_model

model = tiny_model("biogpt")
ids = torch.arange(2 * 40).reshape(2, 40) * 31 % 97
stock = model(ids).logits
whorl.attach(model, "hope:train_length=16")
assert not torch.equal(model(ids).logits, stock)
step = model(ids[:, :20], use_cache=True)
second = model(ids[:, 20:], past_key_values=step.past_key_values).logits
whole, budget = logits_and_budget(model, ids)
assert max_error(torch.cat([step.logits, second], 1), whole) < budget
assert torch.equal(whorl.detach(model)(ids).logits, stock)
whorl.attach(model, "rope+window:size=8/alibi").save_pretrained("biogpt")
again = whorl.load("biogpt")
assert torch.equal(again(ids).logits, model(ids).logits)
print(whorl.encoding_of(again))
"""


def test_a_family_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no known seam in model type 'biogpt'"):
        whorl.attach(tiny_model("biogpt"), "nope")
    copy = Copy(tmp_path)
    line = '"biogpt": Family(rotary=None, position_table="embed_positions"),'
    copy.add_line("hosts/transformers/families.py", "FAMILIES: dict[str, Family]", line)
    assert copy.run("-c", FAMILY) == "rope:base=10000+window:size=8/alibi\n"
