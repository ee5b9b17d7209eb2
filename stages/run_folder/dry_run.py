"""Collect for `status` which stages would run, and why, without any work."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Plan:
    """Each stage with its reason to run, None if it is up to date."""

    stages: list[tuple[str, str | None]] = field(default_factory=list)
    to_be_written: dict[str, str] = field(default_factory=dict)  # file -> the stage that would write it


_open: ContextVar[Plan | None] = ContextVar("_open", default=None)


@contextlib.contextmanager
def planning() -> Iterator[Plan]:
    """Open a plan: in this block a Job takes no lock, writes nothing, and only notes whether it would run."""
    plan = Plan()
    token = _open.set(plan)
    try:
        yield plan
    finally:
        _open.reset(token)


def current() -> Plan | None:
    """Return the open plan, None if the stages are to work."""
    return _open.get()


def is_planning() -> bool:
    """Tell whether a `planning` block is open, in which a stage prints nothing."""
    return _open.get() is not None
