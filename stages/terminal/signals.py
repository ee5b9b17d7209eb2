"""Handle Ctrl-C and SIGTERM: after the first, work goes on to a good place to stop; the second stops it at once."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)
_kept: list[object] = []  # handlers that C calls: without this reference Python would free them


@dataclass
class Asked:
    """The number of the signal that has come, 0 before."""

    number: int = 0


class Terminated(BaseException):
    """SIGTERM that stops the work at once."""


@contextlib.contextmanager
def noted() -> Iterator[Asked]:
    """Note the first signal in this block; let the second one stop the work at once."""
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
    """Return the number of the signal that raised an exception."""
    return int(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def interrupt(number: int, _frame: FrameType | None) -> None:
    """Stop the work at once: a handler for both signals."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def end_aborts(code: int, line: str) -> None:
    """End the process with `code` and `line` if a library calls abort(), as polars does when it gets no memory.

    A Python handler comes too late: abort() ends the process when the handler returns. This one is registered with the
    C library, and does not return.
    """

    def end(_number: int) -> None:
        os.write(2, line.encode())
        os._exit(code)

    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    _kept.append(handler)
    library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
