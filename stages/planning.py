"""What `status` asks: which stages would run, and why, without any work."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Plan:
    """Every stage with the reason to run it, None where it is up to date; collected in place of work."""

    stages: list[tuple[str, str | None]] = field(default_factory=list)
    to_be_written: dict[str, str] = field(default_factory=dict)  # file -> the stage that is to run first


_open: ContextVar[Plan | None] = ContextVar("_open", default=None)


@contextlib.contextmanager
def planning() -> Iterator[Plan]:
    """Within this block a Job writes nothing, takes no lock, and only notes whether it would run."""
    plan = Plan()
    token = _open.set(plan)
    try:
        yield plan
    finally:
        _open.reset(token)


def current() -> Plan | None:
    """Give the plan that a stage is to note itself in, None where it is to work."""
    return _open.get()


def is_planning() -> bool:
    """Tell whether a `planning` block is open, in which a stage shows nothing."""
    return _open.get() is not None
