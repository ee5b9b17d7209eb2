"""Ctrl-C and SIGTERM, asked for once: work goes on to a good place to stop. Asked for twice, it stops where it is."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)
_kept: list[object] = []  # handlers that C calls: nobody else refers to them


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


def end_aborts(code: int, line: str) -> None:
    """End the process with `code` and a line where an engine calls abort(), as polars does where memory is refused.

    Python's own handlers come too late for it: abort() ends the process when they return to it. This one is the C
    library's, and does not return.
    """

    def end(_number: int) -> None:
        os.write(2, line.encode())
        os._exit(code)

    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    _kept.append(handler)
    library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
