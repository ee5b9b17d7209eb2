"""Ctrl-C and SIGTERM, asked for once: work goes on to a good place to stop. Asked for twice, it stops where it is."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Asked:
    """The signal that has come, 0 while none has."""

    number: int = 0


class Terminated(BaseException):
    """SIGTERM, where nothing better is to be done than to stop at once."""


@contextlib.contextmanager
def noted() -> Iterator[Asked]:
    """Within this block the first signal is noted, and the second is what it was before."""
    asked = Asked()

    def note(number: int, frame: FrameType | None) -> None:
        if asked.number:
            interrupt(number, frame)
        asked.number = number

    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def number_of(error: KeyboardInterrupt | Terminated) -> int:
    """Give the signal that was raised as an exception."""
    return int(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def interrupt(number: int, _frame: FrameType | None) -> None:
    """Stop where the work is: a handler for both signals."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
