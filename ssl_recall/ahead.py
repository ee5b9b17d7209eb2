"""Work that is done in threads of its own before it is asked for."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")


def ahead(items: Iterator[_T], depth: int = 2) -> Iterator[_T]:
    """Give what an iterator gives, nothing of it None, made in its own thread up to `depth` before it is asked for."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = deque(thread.submit(next, items, None) for _ in range(depth))
        while (item := upcoming.popleft().result()) is not None:
            upcoming.append(thread.submit(next, items, None))
            yield item


def called_ahead(calls: Iterator[Callable[[], _T]], threads: int, depth: int = 2) -> Iterator[_T]:
    """Give what each call gives, in their order, called by so many threads, up to `depth` a thread ahead."""
    pool = ThreadPoolExecutor(threads)
    try:
        upcoming = deque(pool.submit(call) for call in islice(calls, threads * depth))
        while upcoming:
            item = upcoming.popleft().result()
            upcoming.extend(pool.submit(call) for call in islice(calls, 1))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
