"""Compute values in background threads before their use."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")


def prefetch(items: Iterator[_T], depth: int = 2) -> Iterator[_T]:
    """Run an iterator in its own thread, at most `depth` items ahead; yield its items, none of which may be None."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = deque(thread.submit(next, items, None) for _ in range(depth))
        while (item := upcoming.popleft().result()) is not None:
            upcoming.append(thread.submit(next, items, None))
            yield item


def prefetch_calls(calls: Iterator[Callable[[], _T]], threads: int, depth: int = 2) -> Iterator[_T]:
    """Run the calls in `threads` threads, at most `depth` ahead per thread; yield their results in order."""
    pool = ThreadPoolExecutor(threads)
    try:
        upcoming = deque(pool.submit(call) for call in islice(calls, threads * depth))
        while upcoming:
            item = upcoming.popleft().result()
            upcoming.extend(pool.submit(call) for call in islice(calls, 1))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
