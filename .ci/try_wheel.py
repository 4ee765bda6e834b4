"""Installs a wheel of whorl into an environment of its own and uses it there: python .ci/try_wheel.py WHEEL

The environment holds the wheel, as pip installs it, and links to those of this Python's packages that the wheel's
metadata asks for, and that these ask for in turn: what is not declared is not there. It has no C compiler on its PATH
and an empty cache. What this does not prove: that an index serves those packages, and how other platforms and Pythons
do. (The loops for each kind of processor are held against the oracle by tests/ops, as far as the machine runs them.)
"""

import os
import re
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from zipfile import Path as Zipped

from packaging.requirements import Requirement

ATTACH = """
import os, shutil, sys
from pathlib import Path
import torch, whorl
from whorl.ops.impl import native
from whorl.testing import tiny_model

assert Path(whorl.__file__).is_relative_to(sys.prefix), whorl.__file__
assert not any(shutil.which(name) for name in ("cc", "gcc", "clang"))
for encoding in ("hope:train_length=16", "alibi"):
    model, tokens = whorl.attach(tiny_model("llama"), encoding), torch.arange(40)[None]
    logits = model(tokens).logits
    slow = whorl.attach(model, encoding, impl="reference")(tokens).logits
    torch.testing.assert_close(logits, slow)
loops = Path(native.library()[0]._name)
assert loops.parent == Path(native.__file__).with_name("built"), loops
assert not (Path.home() / ".cache" / "whorl").exists(), "something was compiled"
whorl.detach(model).save_pretrained("model")
print(f"attached, with {loops.name} of", [path.name for path in sorted(loops.parent.glob("loops-*.so"))])
"""


def main(wheel: Path) -> None:
    """Raises AssertionError or CalledProcessError with what went wrong."""
    assert not wheel.name.endswith("-any.whl"), f"{wheel.name} has no compiled loops: is there a C compiler?"
    (about,) = (path for path in Zipped(wheel).iterdir() if path.name.endswith(".dist-info"))
    described = (about / "METADATA").read_text("utf-8")
    assert "# whorl" in described, "README.md is not in the metadata"
    assert not re.search(r"!\[|\]\((?!https?:)", described), "a picture, or a link to a file that is not there"
    with tempfile.TemporaryDirectory(prefix="whorl-wheel-") as place:
        here = Path(place).resolve()
        venv.create(here / "env", with_pip=False)
        python = here / "env" / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
        subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
        (packages,) = here.glob("env/lib/python*/site-packages")
        environment = {"PATH": str(python.parent), "HOME": str(here), "HF_HUB_OFFLINE": "1"}
        environment |= {name: os.environ[name] for name in ("OMP_NUM_THREADS", "TMPDIR") if name in os.environ}

        def run(*command: str) -> subprocess.CompletedProcess[str]:
            done = subprocess.run(command, capture_output=True, text=True, cwd=here, env=environment)
            print(f"$ {' '.join(command)[:80]!r}: {done.returncode}\n{(done.stdout + done.stderr)[-600:]}")
            return done

        whorl = str(python.with_name("whorl"))
        link(needed(PathDistribution(about), ""), packages)
        done = run(str(python), "-c", ATTACH)
        assert done.returncode == 0
        assert "slower code" not in done.stderr
        link(needed(PathDistribution(about), "cli"), packages)
        assert run(whorl, "list").returncode == 0
        assert run(whorl, "--version").stdout == f"whorl {PathDistribution(about).version}\n"
        done = run(whorl, "doctor", "model")
        assert done.returncode == 0
        assert re.search(r"\d+ pass", done.stdout)
        done = run(whorl, "compare", "rope", "hope")
        assert done.returncode == 2
        assert "try pip install 'whorl[compare]'" in done.stderr
        print(f"{wheel.name}: installed and used")


def needed(of: Distribution, extra: str) -> dict[str, Distribution]:
    """The installed packages that a distribution asks for with this extra, and that these ask for in turn, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(of, extra)]
    while waiting:
        asking, extra = waiting.pop()
        for requirement in map(Requirement, asking.requires or []):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = re.sub("[-_.]+", "-", requirement.name).lower()
            if name == "whorl":
                waiting += [(of, own) for own in requirement.extras]
            elif name not in found:
                found[name] = distribution(name)
                waiting += [(found[name], own) for own in ("", *requirement.extras)]
    return found


def link(distributions: dict[str, Distribution], packages: Path) -> None:
    """Puts links to what these have in their site-packages into another."""
    for one in distributions.values():
        tops = {path.parts[0] for path in one.files or []} - {"..", "__pycache__"}
        for name in tops:
            link, target = packages / name, Path(str(one.locate_file(name))).resolve()
            if not link.exists() and not name.endswith(".pth"):
                link.symlink_to(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
