"""Whether whorl's runs survive what happens to runs: `make soak`, or `python benchmarks/soak.py --minutes 30`.

Until the time is over, in turn:

kill       kill -9 of compare, inspect, extend (with --tune too), convert or export at a random moment, then the same
           command again: the numbers must be those of an undisturbed run, and nothing of the killed one may lie about
race       two or three `whorl compare` on one folder at once: every one of them ends well or names who has the folder,
           and the results are the undisturbed ones
damage     a training that was killed, with a file of one of its checkpoints cut short, emptied, exchanged or deleted:
           the next run goes on from a whole one, and has the undisturbed results
full disk  a command on a file system with little room: no traceback, and the same command is right once there is room
           (a tmpfs, so as root alone)
fuzz       tests/fuzz with new examples, twenty times as many

Prints a table of tries and failures, and exits with 1 where anything failed; each failure's folder is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT / "src"),
    "OMP_NUM_THREADS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}
# Many checkpoints of each training, so that killed runs have several of each age.
OFTEN = """
import sys
import whorl.training.trainer as training
training.MIN_STEPS = 2
from whorl.cli import main
main()
"""
SMALL = shlex.split(
    "--train-length 32 --lengths 1x,2x --tokens 3840 --batch-size 4 --tail 8 --windows 4 --precision fp32"
)


class Failure(Exception):
    """What was seen, and should not have been."""


class Soak:
    """The undisturbed results, and the tries against them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.text = folder / "text"
        self.text.mkdir()
        for name in ("argparse", "ast", "bdb", "calendar", "cmd", "csv", "difflib", "dis", "enum", "heapq", "pdb"):
            shutil.copy(Path(os.__file__).with_name(f"{name}.py"), self.text / f"{name}.txt")
        self.truth: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        model = folder / "model"
        self.commands: dict[str, Callable[[Path], list[str]]] = {
            "compare": lambda out: [
                sys.executable, "-c", OFTEN, "compare", "hope", "t5", *SMALL, "--text", str(self.text),
                "--out", str(out),
            ],
            "inspect": lambda out: self._whorl(
                "inspect", str(model), "--text", str(self.text), "--length", "128", "--train-length", "32", "--windows",
                "2", "--random-windows", "2", "--out", str(out),
            ),
            "extend": lambda out: self._whorl(
                "extend", str(model), "--to", "64", "--train-length", "32", "--text", str(self.text), "--windows", "2",
                "--out", str(out), "--force",
            ),
            "tune": lambda out: [
                sys.executable, "-c", OFTEN, "extend", str(model), "--to", "64", "--train-length", "32", "--text",
                str(self.text), "--windows", "2", "--method", "yarn", "--tune", "7680", "--batch-size", "4", "--out",
                str(out), "--force",
            ],
            "convert": lambda out: [
                sys.executable, "-c", OFTEN, "convert", str(model), "--to", "p-rope:p=0.25", "--train-length", "32",
                "--heal", "3840", "--gradual", "0.5", "--batch-size", "4", "--windows", "2", "--text", str(self.text),
                "--out", str(out), "--force",
            ],
            "export": lambda out: self._whorl("export", str(model), "--format", "gguf", "--out", str(out), "--force"),
        }  # fmt: skip

    @staticmethod
    def _whorl(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "whorl", *arguments]

    def prepare(self) -> None:
        """The model that most commands read (a trial that is saved), and one undisturbed run of each."""
        self.undisturbed("compare")
        trial = next((self.folder / "undisturbed-compare" / "trials").glob("hope*"))
        code = (
            "import sys, shutil\nfrom whorl.comparison import load_trial\n"
            "load_trial(sys.argv[1]).save_pretrained(sys.argv[2])\n"
            "shutil.copytree(sys.argv[1] + '/tokenizer', sys.argv[2], dirs_exist_ok=True)"
        )
        subprocess.run(
            [sys.executable, "-c", code, str(trial), str(self.folder / "model")], env=ENVIRONMENT, check=True
        )
        for verb in self.commands:
            if verb != "compare":
                self.undisturbed(verb)

    def undisturbed(self, verb: str) -> None:
        out = self.folder / f"undisturbed-{verb}"
        began = time.perf_counter()
        self.run(verb, out)
        self.seconds[verb] = time.perf_counter() - began
        self.truth[verb] = numbers(verb, out)
        print(f"undisturbed {verb}: {self.seconds[verb]:.1f} s", flush=True)

    def start(self, verb: str, out: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.commands[verb](out), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, verb: str, out: Path) -> str:
        """To its end, which must be good. Returns what it said."""
        process = self.start(verb, out)
        said, _ = process.communicate()
        if process.returncode:
            raise Failure(f"{verb} ended with {process.returncode}: {said[-600:]}")
        return said

    def check(self, verb: str, out: Path) -> None:
        found = numbers(verb, out)
        if found != self.truth[verb]:
            raise Failure(f"{verb}: other numbers than undisturbed")
        beside = [p.name for p in out.parent.iterdir() if p != out]
        within = [str(p.relative_to(out)) for p in out.rglob("*") if p.name.startswith(".") and p.name != ".whorl.json"]
        if beside or within:
            raise Failure(f"{verb} left {beside + within}")

    def kill(self, place: Path) -> str:
        verb = self.random.choice(list(self.commands))
        out = place / "out"
        for _ in range(self.random.randint(1, 3)):
            process = self.start(verb, out)
            time.sleep(self.random.uniform(0.05, 1.1) * self.seconds[verb])
            process.send_signal(signal.SIGKILL)
            process.communicate()
        self.run(verb, out)
        self.check(verb, out)
        return verb

    def race(self, place: Path) -> str:
        out = place / "out"
        processes = []
        for _ in range(self.random.randint(2, 3)):
            processes.append(self.start("compare", out))
            time.sleep(self.random.choice([0, 0, 0.3, 3]))
        for process in processes:
            said, _ = process.communicate()
            if process.returncode and "is being written by" not in said:
                raise Failure(f"a racing compare ended with {process.returncode}: {said[-600:]}")
        self.run("compare", out)
        self.check("compare", out)
        return "compare"

    def damage(self, place: Path) -> str:
        out = place / "out"
        process = self.start("compare", out)
        while process.poll() is None and len(list(out.glob("trials/*/checkpoints/*/complete.json"))) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        files = [p for p in out.glob("trials/*/checkpoints/*/*") if p.is_file()]
        if not files:
            return "too late"
        spoiled = self.random.choice(files)
        how = self.random.choice(["cut", "emptied", "exchanged", "deleted"])
        if how == "cut":
            os.truncate(spoiled, self.random.randint(0, spoiled.stat().st_size))
        elif how == "emptied":
            spoiled.write_bytes(b"")
        elif how == "exchanged":
            spoiled.write_bytes(self.random.choice(files).read_bytes())
        else:
            spoiled.unlink()
        self.run("compare", out)
        self.check("compare", out)
        return how

    def full_disk(self, place: Path) -> str:
        verb = self.random.choice(list(self.commands))
        disk = place / "disk"
        disk.mkdir()
        room = self.random.choice([64, 256, 1024, 4096])
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(disk)], capture_output=True
        )
        if mounted.returncode:
            return "no mount"
        try:
            process = self.start(verb, disk / "out")
            said, _ = process.communicate()
            if process.returncode == 0:
                self.check(verb, disk / "out")
                return "room enough"
            if "Traceback" in said:
                raise Failure(f"{verb} on a disk of {room} KiB: {said[-600:]}")
            subprocess.run(["mount", "-o", "remount,size=512m", str(disk)], check=True)
            self.run(verb, disk / "out")
            self.check(verb, disk / "out")
            return verb
        finally:
            subprocess.run(["umount", str(disk)], check=False)

    def fuzz(self, place: Path) -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-x", str(ROOT / "tests" / "fuzz")]
        done = subprocess.run(
            command, cwd=ROOT, env={**ENVIRONMENT, "HYPOTHESIS_PROFILE": "soak"}, capture_output=True, text=True
        )
        if done.returncode:
            raise Failure(done.stdout[-2000:])
        return "tests/fuzz"


def numbers(verb: str, out: Path) -> Any:
    """What an undisturbed run and any other must agree on, to the last digit."""
    if verb == "compare":
        trials = json.loads((out / "results.json").read_text())["trials"]
        return [(t["id"], t["train"]["loss"], t["evaluations"]) for t in trials]
    if verb == "inspect":
        found = json.loads((out / "inspection.json").read_text())
        return {key: value for key, value in found.items() if key not in ("created", "machine", "seconds", "versions")}
    if verb == "export":
        return (out / "model.gguf").stat().st_size
    facts = json.loads((out / ("extension.json" if verb in ("extend", "tune") else "conversion.json")).read_text())
    return {key: facts[key] for key in ("tried", "method", "healed", "control", "swapped") if key in facts}


def main() -> int:
    """Runs the tries in turn until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", nargs="*", default=["kill", "race", "kill", "damage", "kill", "full_disk", "fuzz"])
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="whorl-soak-"))
    soak = Soak(folder, asked.seed)
    print(f"seed {asked.seed}, in {folder}", flush=True)
    soak.prepare()
    tries: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []
    end = time.monotonic() + 60 * asked.minutes
    turn = 0
    while time.monotonic() < end:
        what = asked.only[turn % len(asked.only)]
        turn += 1
        place = folder / f"{turn}-{what}"
        place.mkdir()
        try:
            tries[what, getattr(soak, what)(place)] += 1
            shutil.rmtree(place)
        except Failure as failure:
            tries[what, "FAILED"] += 1
            failures.append(f"{place}: {failure}")
            print(failures[-1], flush=True)
    print(f"\n{'what':10} {'of':14} tries")
    for (what, of), count in sorted(tries.items()):
        print(f"{what:10} {of:14} {count:5}")
    print(f"{sum(tries.values())} tries, {len(failures)} failures, seed {asked.seed}")
    if not failures:
        shutil.rmtree(folder)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
