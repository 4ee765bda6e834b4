"""What pyproject.toml cannot say: a wheel has the C loops, built for several kinds of processor, and README.md's text.

The loops link neither Python nor PyTorch, so one wheel serves every version of both: py3-none-<platform>. Without a C
compiler that builds them all (gcc from 12 on, clang from 18 on) the wheel is for any platform, and the loops are
compiled at first use, as they are from an editable install.
"""

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

IMPL = Path("whorl", "ops", "impl")
spec = importlib.util.spec_from_file_location("building", Path(__file__).parent / "src" / IMPL / "building.py")
assert spec is not None
assert spec.loader is not None
building = importlib.util.module_from_spec(spec)
spec.loader.exec_module(building)


class Wheel(bdist_wheel):
    """A wheel for this platform where the loops could be built, named after the oldest glibc that they run with."""

    def run(self) -> None:
        self.run_command("build_py")
        self.folder = Path(self.get_finalized_command("build_py").build_lib) / IMPL / "built"
        why = self._build()
        self.root_is_pure = why is not None
        self.distribution.has_ext_modules = lambda: why is None  # so all is installed where a platform's files go
        if why is not None:
            print(f"the wheel has no compiled loops, they will be compiled at first use: {why}", file=sys.stderr)
        super().run()

    def _build(self) -> str | None:
        """None where the loops were built, else why not."""
        shutil.rmtree(self.folder, ignore_errors=True)
        compiler = building.compiler()
        if os.name != "posix" or compiler is None:
            return "no C compiler (cc, gcc or clang) is on the PATH"
        try:
            building.build_flavours(compiler, self.folder)
        except building.FAILURES as error:
            shutil.rmtree(self.folder)
            return f"{compiler} could not build them: {building.said(error)}"
        return None

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-any, or py3-none-<platform>."""
        if self.root_is_pure:
            return "py3", "none", "any"
        platform = super().get_tag()[2]
        asked = b"".join(library.read_bytes() for library in self.folder.glob("*.so"))
        minor = max((int(found) for found in re.findall(rb"GLIBC_2\.(\d+)", asked)), default=None)
        if minor is not None and not self.plat_name_supplied:
            platform = platform.replace("linux_", f"manylinux_2_{max(minor, 5)}_", 1)
        return "py3", "none", platform


def description() -> str:
    """README.md as it reads anywhere: without pictures, and without links to files that stand beside it."""
    text = Path(__file__).with_name("README.md").read_text("utf-8")
    text = re.sub(r"^!\[[^\]]*\]\([^)]*\)\n\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)


setup(cmdclass={"bdist_wheel": Wheel}, long_description=description(), long_description_content_type="text/markdown")
