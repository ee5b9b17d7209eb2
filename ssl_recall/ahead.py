"""Work that is done in a thread of its own before it is asked for."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def ahead(items: Iterator[_T], depth: int = 2) -> Iterator[_T]:
    """Give what an iterator gives, nothing of it None, made in its own thread up to `depth` before it is asked for."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = deque(thread.submit(next, items, None) for _ in range(depth))
        while (item := upcoming.popleft().result()) is not None:
            upcoming.append(thread.submit(next, items, None))
            yield item
