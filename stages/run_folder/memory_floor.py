"""Refuse a stage before it starts if memory cannot suffice: a refusal now in place of a kill at night.

The estimate is a floor from the sizes in the files' footers. A stage that is refused could not have finished. A stage
that starts may still run out of memory.
"""

import math
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stages.terminal.errors import MemoryShortError

from .reader import Reader

ANYWAY = "SSL_RECALL_ANY_MEMORY"  # environment variable; with any value no stage is refused
GIB = 2.0**30
ENGINES = (0.1 * GIB, 1.1 * GIB)  # bytes of polars and pyarrow: resident memory, address space
TORCH = (0.25 * GIB, 0.5 * GIB)  # the same for torch
GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Need:
    """The least memory of a stage: `estimate` reads bytes from its inputs' footers; `torch` adds the library."""

    estimate: Callable[[Reader], float]
    torch: bool = False


def check(stage: str, need: Need, inputs: Reader) -> None:
    """Refuse a stage before it starts if memory cannot suffice. Raises MemoryShortError with both sizes."""
    if os.environ.get(ANYWAY):
        return
    _hold_against(stage, 0.0, torch=need.torch)  # the libraries alone, before they are loaded to read the footers
    _hold_against(stage, need.estimate(inputs), torch=need.torch)


def available() -> float:
    """Return the bytes that this process can still take, infinite if the system does not tell."""
    return min(left for left in (_resident(), _addresses(), math.inf) if left is not None)


def _hold_against(stage: str, need: float, *, torch: bool) -> None:
    loaded = [ENGINES] * ("polars" not in sys.modules) + [TORCH] * (torch and "torch" not in sys.modules)
    for kind, have, base in (
        ("memory", _resident(), sum(part[0] for part in loaded)),
        ("address space (ulimit -v)", _addresses(), sum(part[1] for part in loaded)),
    ):
        if have is not None and need + base > have:
            raise MemoryShortError(
                f"{stage} needs at least {(need + base) / GIB:,.2f} GiB of {kind}, there are {have / GIB:,.2f}; "
                f"take smaller widths or a larger machine, or set {ANYWAY}=1 to try anyway",
                "OUT_OF_MEMORY",
            )


def _addresses() -> float | None:
    """Return the bytes of address space left, None if there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    return float(limit - pages * resource.getpagesize())


def _resident() -> float | None:
    """Return the available bytes: the least of the machine's and of this process's memory groups."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found += [int(lines["MemAvailable"].split()[0]) * 1024.0] if "MemAvailable" in lines else []
    for folder, most, used in _groups():
        try:
            taken = float((folder / used).read_text()) - _given_back(folder)
            found.append(float((folder / most).read_text()) - taken)
        except (OSError, ValueError):  # no limit: "max", or no file
            continue
    return min(found, default=None)


def _given_back(folder: Path) -> float:
    """Return the bytes of a group's page cache, which the kernel frees on demand."""
    try:
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0.0
    return float(lines.get("inactive_file", 0)) + float(lines.get("active_file", 0))


def _groups() -> "list[tuple[Path, str, str]]":
    """List this process's memory groups (cgroup v1 and v2) with the names of their limit and usage files."""
    path = Path("/proc/self/cgroup")
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        _, kinds, name = line.split(":", 2)
        if kinds == "memory":
            inside = GROUPS / "memory" / name.lstrip("/")
            found.append((inside, "memory.limit_in_bytes", "memory.usage_in_bytes"))
        elif not kinds:
            found.append((GROUPS / name.lstrip("/"), "memory.max", "memory.current"))
    return found
