"""The memory that is left is that of the machine, of the process's groups, and of its address space."""

import math
import resource
from collections.abc import Iterator

import pytest

from stages.run_folder import memory_floor


@pytest.fixture
def limited() -> Iterator[float]:
    """Limit the address space of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = 2**45
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    yield float(limit)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_what_is_left_is_finite_on_linux_and_below_the_limit(limited: float) -> None:
    assert 0 < memory_floor.available() < limited < math.inf
