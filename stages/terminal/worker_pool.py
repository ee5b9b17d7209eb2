"""Run tasks in several processes at once, and stop them together."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for_end
from typing import Annotated, TypeVar

import typer

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
JobsOption = Annotated[
    int, typer.Option(min=1, max=256, help="Models trained at once, each in a process with one thread.")
]


@contextlib.contextmanager
def run_tasks(
    function: Callable[[_Task], _Result], tasks: Iterable[_Task], jobs: int
) -> Iterator[Iterator[tuple[_Task, _Result]]]:
    """Yield each task with its result when it is done; run `jobs` at a time, in separate processes if more than one.

    Take the next task only when a process is free, so that it may depend on earlier results. Raise the exception of a
    task here, and stop the others at once.
    """
    results = _side_by_side(function, tasks, jobs) if jobs > 1 else ((task, function(task)) for task in tasks)
    with contextlib.closing(results):
        yield results


def _side_by_side(
    function: Callable[[_Task], _Result], tasks: Iterable[_Task], jobs: int
) -> Generator[tuple[_Task, _Result]]:
    upcoming, running = iter(tasks), dict[Future[_Result], _Task]()
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        while True:
            running |= {pool.submit(function, task): task for task in islice(upcoming, jobs - len(running))}
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BaseException as error:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        if isinstance(error, BrokenProcessPool):
            raise MemoryError("a worker was killed, most likely for lack of memory; take fewer --jobs") from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Leave Ctrl-C to the parent, and exit when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    wait_for_end([parent.sentinel])
    os._exit(1)
