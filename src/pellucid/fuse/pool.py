"""A small pool of threads for kernels that release the GIL; the calling thread takes its share.

Safe for several optimizers in several threads and after ``fork``; needs no OpenMP.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["available_cores", "run_blocks", "set_num_threads", "threads"]

Block = tuple[Callable[..., Any], int, int, tuple[Any, ...]]
"""A kernel, its first and last chunk, and its other arguments."""


class _Job:
    """Blocks that any thread may take, one after the other."""

    __slots__ = ("blocks", "finished", "next")

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.next = itertools.count().__next__  # atomic: one C call under the GIL
        self.finished: SimpleQueue[BaseException | None] = SimpleQueue()

    def work(self) -> tuple[int, BaseException | None]:
        """Run blocks until none is left: how many this thread took, and what failed."""
        taken, failed = 0, None
        while (index := self.next()) < len(self.blocks):
            kernel, first, last, arguments = self.blocks[index]
            taken += 1
            try:
                kernel(first, last, *arguments)
            except BaseException as error:
                failed = error
        return taken, failed

    def help(self) -> None:
        """Work as a thread of the pool: report each block."""
        while (index := self.next()) < len(self.blocks):
            kernel, first, last, arguments = self.blocks[index]
            try:
                kernel(first, last, *arguments)
            except BaseException as error:
                self.finished.put(error)
            else:
                self.finished.put(None)


def available_cores() -> int:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Pool:
    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.started = 0
        self.lock = threading.Lock()

    def at_least(self, wanted: int) -> None:
        if self.started >= wanted:
            return
        with self.lock:
            while self.started < wanted:
                name = f"pellucid-{self.started}"
                serve = threading.Thread(
                    target=self._serve, args=(self.jobs,), name=name, daemon=True
                )
                serve.start()
                self.started += 1

    @staticmethod
    def _serve(jobs: SimpleQueue[_Job]) -> None:
        while True:
            job = jobs.get()
            job.help()
            del job


_pool = _Pool()
_threads: int | None = None


def _after_fork() -> None:
    global _pool
    _pool = _Pool()  # a child has none of its parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threads() -> int:
    """How many threads a step may use, the calling one included."""
    if _threads is not None:
        return _threads
    given = os.environ.get("PELLUCID_NUM_THREADS", "")
    return max(1, int(given)) if given.isdigit() else available_cores()


def set_num_threads(count: int | None) -> None:
    """Use ``count`` threads from now on (None: as many as there are processors).

    Results do not depend on it.
    """
    global _threads
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ValueError(f"set_num_threads({count!r}): allowed is a whole number from 1, or None")
    _threads = count


def run_blocks(blocks: list[Block], count: int, meanwhile: Callable[[], Any] | None = None) -> None:
    """Run all blocks on up to ``count`` threads and return when all are done.

    ``meanwhile`` is called by this thread once the others have been woken, before it joins in.
    """
    helpers = min(count, len(blocks)) - 1
    if helpers < 1:
        if meanwhile is not None:
            meanwhile()
        for kernel, first, last, arguments in blocks:
            kernel(first, last, *arguments)
        return
    pool = _pool
    pool.at_least(helpers)
    job = _Job(blocks)
    for _ in range(helpers):
        pool.jobs.put(job)
    if meanwhile is not None:
        meanwhile()
    done, failed = job.work()
    while done < len(blocks):
        failed = job.finished.get() or failed
        done += 1
    if failed is not None:
        raise failed
