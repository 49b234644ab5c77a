"""Work of a study that is no run of a grid, each part in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item")


def in_processes(function: Callable[[Item], object], items: Iterable[Item], jobs: int) -> None:
    """Call a function of a module with each item, ``jobs`` at a time.

    Raises:
        Exception: what a call raised; those that have not begun are left out.
    """
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        calls = {pool.submit(function, item): item for item in items}
        try:
            for call in as_completed(calls):
                call.result()
                print("done:", calls[call], flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
