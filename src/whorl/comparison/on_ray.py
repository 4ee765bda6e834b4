"""Trials as tasks of Ray, on one machine or many: `whorl compare --ray [ADDRESS]`.

One trial is one task, which can be run twice without harm: it writes into the results folder, which all machines must
share, and finds there what an earlier try has left. A task whose worker is lost (its machine, its memory) is run again
from its newest checkpoint, `TRIES` times in all. What a task raises is written down by the trial itself: Ray sees none.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from whorl.comparison.orders import Ended, Order
from whorl.comparison.planning import RAY_ADDRESS, Planned
from whorl.comparison.running import in_one_line
from whorl.comparison.sweep import Sweep

TRIES = 3
SECONDS = 1.0  # between two looks at how far the trials are
SEEN_WITHIN = 60.0  # seconds until a file that another machine has written is seen, on a file system that is shared


def on_ray(sweep: Sweep, address: str) -> None:
    """Runs the missing trials as tasks of the Ray at `address`, of which this process may be a part already.

    address  `auto`: the one of RAY_ADDRESS or of this machine, or else a new one; `local`: a new one; or host:port

    A task has one GPU where there are any, and as many CPUs as OMP_NUM_THREADS says, or one. Raises ValueError where
    there is no Ray at the address; `Busy` and OSError as `Sweep.follow` does.
    """
    import ray

    orders = {trial.id: Order.of(sweep.runner, trial) for trial in sweep.missing}
    with _connected(address):
        resources = ray.cluster_resources()
        threads, gpus = int(os.environ.get("OMP_NUM_THREADS", "1")), min(1, resources.get("GPU", 0))
        task = ray.remote(max_retries=TRIES - 1, num_cpus=threads, num_gpus=gpus)(_carried_out)
        waiting = {task.remote(asdict(orders[trial.id]), threads): trial for trial in sweep.missing}

        def taken() -> list[tuple[Planned, Ended]]:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=SECONDS)
            return [(trial, _ended(sweep, trial, ref)) for ref in ready for trial in (waiting.pop(ref),)]

        at_once = int(resources.get("GPU", 0) if gpus else resources.get("CPU", 1) // threads)
        try:
            sweep.follow(orders, max(1, at_once), taken)
        finally:
            for ref in waiting:
                ray.cancel(ref, force=True)


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """This process is part of a Ray while the block runs, and after it if it was before."""
    import ray

    if ray.is_initialized():
        yield
        return
    if address != "local":
        _check_reachable(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
    try:
        ray.init(
            None if address == "auto" else address, include_dashboard=False, log_to_driver=False, logging_level="error"
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"no Ray could be had at {address} ({in_one_line(error)}); try --ray=local") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises ValueError where nobody listens: Ray itself would wait for minutes, and then end this process."""
    found = RAY_ADDRESS.fullmatch(address)
    if found is None or found["port"] is None:
        return
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=10).close()
    except OSError as error:
        raise ValueError(f"there is no Ray at {address} ({error}); try --ray=local") from error


def _carried_out(order: dict[str, Any], threads: int) -> dict[str, Any]:
    """The task."""
    torch.set_num_threads(threads)
    return asdict(Order(**order).carry_out())


def _ended(sweep: Sweep, trial: Planned, ref: Any) -> Ended:
    """How a task ended that is over."""
    import ray

    try:
        ended = Ended(**ray.get(ref))
    except ray.exceptions.RayTaskError as error:  # whorl could not be imported there
        return Ended("broken", in_one_line(error.cause), str(error))
    except ray.exceptions.RayError as error:
        return Ended("broken", f"its worker was lost, in each of {TRIES} tries ({in_one_line(error)[:300]})")
    return ended if ended.how not in ("finished", "failed") or _is_here(sweep, trial) else _elsewhere(sweep)


def _is_here(sweep: Sweep, trial: Planned) -> bool:
    """Whether what the trial wrote has come to this machine."""
    deadline = time.monotonic() + SEEN_WITHIN
    while sweep.runner.result(trial) is None and sweep.runner.failure(trial) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _elsewhere(sweep: Sweep) -> Ended:
    return Ended(
        "broken",
        f"what it wrote is not in {sweep.runner.folder} here: the results folder must be on a file system that all "
        "machines share",
    )
