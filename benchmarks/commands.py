"""What each command takes on a pretrained model: wall time, processor time, and the most memory that its process held.

    WHORL_MODELS=build/models make bench-commands    SmolLM2 and Gemma 3 as .gguf files (`make study` fetches them)
    .venv/bin/python benchmarks/commands.py --models DIR --only doctor extend --tree build/against/97a2778

Commands run one after another, each in a process of its own with this tree's code (or another's: --tree), on files of
--models whose names end in .gguf, or folders there. One that takes longer than --limit is killed: exit -9, and its
numbers are of what it did until then. `load` is the machine's mean load over the minute before: where other work ran
beside it, processor time says more than wall time. Rows go to benchmarks/results/commands.csv, command by command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import rows

HERE = Path(__file__).resolve().parents[1]
COMMANDS = {  # what follows `whorl COMMAND MODEL`; "512" and so on keep a command on two cores to minutes
    "export": ("--out", "OUT"),
    "export gguf": ("--runtime", "gguf", "--out", "OUT"),
    "inspect": ("--out", "OUT"),
    "inspect 512": ("--length", "512", "--windows", "2", "--random-windows", "2", "--out", "OUT"),
    "doctor": (),
    "extend": ("--to", "1024", "--train-length", "512", "--windows", "2", "--text", "TEXT", "--out", "OUT"),
    "convert": (
        *("--to", "hope", "--heal", "2048", "--batch-size", "1", "--no-control"),
        *("--train-length", "512", "--windows", "2", "--text", "TEXT", "--out", "OUT"),
    ),
    "evaluate": (
        *("--lengths", "512,1024", "--sequences", "2"),
        *("--train-length", "512", "--windows", "2", "--text", "TEXT", "--out", "OUT"),
    ),
}


def main() -> None:
    parser = rows.parser(__doc__, rounds=1)
    parser.add_argument("--models", type=Path, default=os.environ.get("WHORL_MODELS"), help="default: WHORL_MODELS")
    parser.add_argument("--only", nargs="+", default=list(COMMANDS), choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("--tree", type=Path, default=HERE, help="a checkout whose code is run")
    parser.add_argument("--limit", type=float, default=1800, metavar="SECONDS", help="that a command may take")
    options = parser.parse_args()
    if options.models is None:
        parser.error("say where the models are: --models DIR, or WHORL_MODELS")
    models = sorted(p for p in options.models.iterdir() if p.suffix == ".gguf" or (p / "config.json").exists())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=options.tree, stdout=subprocess.PIPE, text=True
    )
    facts = {**rows.facts(), "commit": commit.stdout.strip(), "threads": options.threads}
    for model in models:
        for name in options.only:
            for _ in range(options.rounds):
                row = {**facts, "model": model.name, "command": name, **measured(name, model, options)}
                print(
                    {key: row[key] for key in ("model", "command", "wall_s", "cpu_s", "peak_mib", "exit")}, flush=True
                )
                rows.write(options.results / "commands.csv", [row], same=["commit", "model", "command"])


def measured(name: str, model: Path, options: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        text = Path(folder) / "text.txt"
        text.write_text("\n\n".join(p.read_text() for p in sorted(Path(os.__file__).parent.glob("*.py"))[:60]))
        given = {"OUT": str(Path(folder) / "out"), "TEXT": str(text)}
        command = [sys.executable, "-m", "whorl", name.split()[0], str(model)]
        command += [given.get(argument, argument) for argument in COMMANDS[name]]
        threads = {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": str(options.tree / "src")}
        (load, _, _), start = os.getloadavg(), time.perf_counter()
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, env={**os.environ, **threads}, stdout=said, stderr=subprocess.STDOUT)
            timer = threading.Timer(options.limit, process.kill)
            timer.daemon = True
            timer.start()
            _, status, usage = os.wait4(process.pid, 0)
            timer.cancel()
            wall = time.perf_counter() - start
            said.seek(0)
            if (code := os.waitstatus_to_exitcode(status)) not in (0, 1):  # doctor's 1: it found something
                print(said.read()[-2000:], file=sys.stderr)
    return {
        "wall_s": round(wall, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "exit": code,
        "load": round(load, 1),
    }


if __name__ == "__main__":
    main()
