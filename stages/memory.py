"""What a stage needs at the least, held against what there is, before any work: a refusal in place of a kill at night.

The estimate is a floor, made of sizes that the files' footers tell: whatever is refused would not have come to its end.
What is not refused may still run out.
"""

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import MemoryShortError

if TYPE_CHECKING:
    from .artifacts import Job

NO_SSL = " --no-ssl"  # of a stage's name: it needs no less
ANYWAY = "SSL_RECALL_ANY_MEMORY"  # set to anything: no stage is refused
GIB = 2.0**30
ENGINES = (0.1 * GIB, 1.1 * GIB)  # polars and pyarrow: resident, and in addresses
TORCH = (0.25 * GIB, 0.5 * GIB)  # the same of torch
USES_TORCH = ("train", "export-embeddings", "evaluate", "tune", "ablate")
CODE = 4  # bytes of a code, or of a weight
PAIR = 8  # bytes of an interaction: two rows' numbers
GROUPS = Path("/sys/fs/cgroup")


def check(job: "Job") -> None:
    """Refuse a stage that cannot come to its end. Raises MemoryShortError with what it needs and what there is."""
    estimate = ESTIMATES.get(job.stage.removesuffix(NO_SSL))
    if estimate is None or os.environ.get(ANYWAY) or not (job.inputs or job.sources):
        return
    _hold_against(job.stage, 0.0)  # the engines themselves, before they are loaded to look at the files
    _hold_against(job.stage, estimate(job))


def _hold_against(stage: str, need: float) -> None:
    torch = stage.removesuffix(NO_SSL) in USES_TORCH and "torch" not in sys.modules
    loaded = [ENGINES] * ("polars" not in sys.modules) + [TORCH] * torch
    for kind, have, base in (
        ("memory", _resident(), sum(part[0] for part in loaded)),
        ("address space (ulimit -v)", _addresses(), sum(part[1] for part in loaded)),
    ):
        if have is not None and need + base > have:
            raise MemoryShortError(
                f"{stage} needs at least {(need + base) / GIB:,.2f} GiB of {kind}, there are {have / GIB:,.2f}; "
                f"take smaller widths or a larger machine, or set {ANYWAY}=1 to try all the same",
                "OUT_OF_MEMORY",
            )


def _of_training(job: "Job") -> float:
    """The embedding table with its best epoch's copy and a checkpoint's, the catalogue's codes, and the log."""
    width = int(job.settings["embedding_width"])
    return 3 * _of_table(job, width) + _of_catalogue(job) + PAIR * job.rows("train.parquet")


def _of_arms(job: "Job") -> float:
    """The same without a checkpoint, of the widest arm: how many train at once is not known here, and one does."""
    widest = max(int(arm["embedding_width"]) for name, arm in job.settings.items() if name.startswith("arm "))
    return 2 * _of_table(job, widest) + _of_catalogue(job) + PAIR * job.rows("train.parquet")


def _of_table(job: "Job", width: int) -> float:
    """An embedding table."""
    features = job.read("features.parquet", ["vocabulary", "codes"]).unique()
    return float(int(features["codes"].sum()) * width * CODE)


def _of_catalogue(job: "Job") -> float:
    """The codes of every feature of every item."""
    return float(CODE * job.rows("items.parquet") * job.read("features.parquet", ["side"]).filter(side="item").height)


def _of_export(job: "Job") -> float:
    """The weights once, and the codes."""
    folder = "no-ssl/" if job.stage.endswith("--no-ssl") else ""
    return os.fstat(job.descriptor(f"{folder}model/weights.safetensors")).st_size + _of_catalogue(job)


def _of_evaluation(job: "Job") -> float:
    """The items' vectors."""
    return float(
        sum(os.fstat(job.descriptor(name)).st_size for name in job.inputs if name.endswith("item_embeddings.parquet"))
    )


def _of_tables(job: "Job") -> float:
    """The rows' numbers of every interaction, where the footers tell how many there are."""
    import pyarrow.parquet as pq

    from . import sources

    path = job.sources.get("interactions")
    files = [file for file in sources.files_of(path) if file.suffix == ".parquet"] if path is not None else []
    try:
        return float(2 * PAIR * sum(pq.ParquetFile(file).metadata.num_rows for file in files))
    except (OSError, ValueError, NotImplementedError):
        return 0.0  # prepare says what is wrong with it


ESTIMATES: dict[str, Callable[[Any], float]] = {
    "prepare": _of_tables,
    "compute-mi": _of_catalogue,
    "build-views": _of_catalogue,
    "train": _of_training,
    "export-embeddings": _of_export,
    "evaluate": _of_evaluation,
    "tune": _of_arms,
    "ablate": _of_arms,
}


def _addresses() -> float | None:
    """Give how many bytes of addresses are left, None where they have no limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    return float(limit - pages * resource.getpagesize())


def _resident() -> float | None:
    """Give how many bytes there are: of the machine, or of the group of processes that this one is in."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found += [int(lines["MemAvailable"].split()[0]) * 1024.0] if "MemAvailable" in lines else []
    for folder, most, used in _groups():
        try:
            taken = float((folder / used).read_text()) - _given_back(folder)
            found.append(float((folder / most).read_text()) - taken)
        except (OSError, ValueError):  # no limit: "max", or no such file
            continue
    return min(found, default=None)


def _given_back(folder: Path) -> float:
    """Give how much of a group's memory is files' content, which it gives back when it is asked to."""
    try:
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0.0
    return float(lines.get("inactive_file", 0)) + float(lines.get("active_file", 0))


def _groups() -> "list[tuple[Path, str, str]]":
    """List this process's memory groups, of both versions, with the names of their two files."""
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
