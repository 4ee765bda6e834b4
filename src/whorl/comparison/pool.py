"""Trials side by side, in processes of this machine: `whorl compare --jobs N`.

Each process has its share of the threads, and of the GPUs if there are any. One that dies (of memory, of a crash) takes
no other along; its trial is begun again, from its newest checkpoint, `TRIES` times in all.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import asdict

import torch

from whorl.comparison.orders import Ended, Order
from whorl.comparison.planning import Planned
from whorl.comparison.sweep import Sweep

TRIES = 3
SECONDS = 1.0  # between two looks at how far the trials are

Waiting = queue.SimpleQueue[tuple[Planned, Order]]
Over = queue.SimpleQueue[tuple[Planned, Ended]]


def side_by_side(sweep: Sweep, jobs: int) -> None:
    """Runs the missing trials in so many processes.

    Raises `Busy` at the end where yet another process is at one of them, OSError for a full disk. However it is left,
    by Ctrl+C too, no process stays.
    """
    orders = {trial.id: Order.of(sweep.runner, trial) for trial in sweep.missing}
    waiting, over = Waiting(), Over()
    for trial in sweep.missing:
        waiting.put((trial, orders[trial.id]))
    slots = [_Slot(environment, waiting, over) for environment in _environments(min(jobs, len(orders)), jobs)]
    for slot in slots:
        slot.start()
    try:
        sweep.follow(orders, len(slots), lambda: _taken(over))
    finally:
        for slot in slots:
            slot.stop()


def _environments(slots: int, jobs: int) -> list[dict[str, str]]:
    """What each process finds in its environment: its share of the threads, and one of the GPUs, in turn."""
    threads = str(max(1, torch.get_num_threads() // jobs))
    shared = {**os.environ, "OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [*map(str, range(torch.cuda.device_count()))] if visible is None else visible.split(",")
    if not torch.cuda.is_available():
        return [shared] * slots
    return [{**shared, "CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} for slot in range(slots)]


def _taken(over: Over) -> list[tuple[Planned, Ended]]:
    """What is over; waits for a while where nothing is."""
    found = []
    try:
        found.append(over.get(timeout=SECONDS))
        while True:
            found.append(over.get_nowait())
    except queue.Empty:
        return found


class _Slot(threading.Thread):
    """One process at a time, and the trials that it is given."""

    def __init__(self, environment: dict[str, str], waiting: Waiting, over: Over) -> None:
        super().__init__(daemon=True)
        self.environment, self.waiting, self.over = environment, waiting, over
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False
        self.lock = threading.Lock()  # no process is started once it is stopped

    def run(self) -> None:
        while not self.stopped:
            try:
                trial, order = self.waiting.get_nowait()
            except queue.Empty:
                break
            self.over.put((trial, self._carried_out(order)))
        self.stop()

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            if self.process is not None:
                self.process.kill()  # what it writes is whole or not there
                self.process.wait()

    def _carried_out(self, order: Order) -> Ended:
        status = 0
        for _ in range(TRIES):
            process = self._running()
            if process is None:
                break
            answer = _asked(process, order)
            if answer is None:
                status = process.wait()
                continue
            if answer.how != "finished":  # it ends
                process.wait()
            return answer
        return Ended("broken", f"{_how_it_ended(status)}, in each of {TRIES} tries")

    def _running(self) -> subprocess.Popen[str] | None:
        """The process, a new one where it has ended; None once this is stopped.

        It imports from where this process does. A session of its own keeps Ctrl+C from it: it is told to stop.
        """
        with self.lock:
            if self.stopped:
                return None
            if self.process is None or self.process.poll() is not None:
                code = f"import sys; sys.path = {sys.path!r}; from whorl.comparison.worker import main; main()"
                self.process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=self.environment,
                    start_new_session=True,
                )
            return self.process


def _asked(process: subprocess.Popen[str], order: Order) -> Ended | None:
    """What the process answers; None where it died."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(asdict(order)) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    return Ended(**json.loads(line)) if line.endswith("\n") else None


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    killed = signal.Signals(-status).name
    return f"its process was killed by {killed}{' (out of memory?)' if killed == 'SIGKILL' else ''}"
