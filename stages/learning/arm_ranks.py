"""The rank of every test pair in its query's list, for one arm and one seed: measured once, stored in a file.

A killed command resumes from these files and trains only changed arms again: the name of a file holds a hash of
everything that its content depends on.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.run_folder import atomic_files, reader
from stages.terminal import console, signals, worker_pool
from stages.terminal.errors import NumberError, Stopped

from . import hardware, training_inputs
from .arm import Arm, trained
from .fit import Fit, K, recall_line
from .held_out import Targets, truth_of

if TYPE_CHECKING:
    import polars as pl
    import torch

    from ssl_recall.evaluation.comparison import Truth

DEPTH = 100  # least depth of the stored ranks: a --k up to it needs no new training
NAME = re.compile(r"(?P<arm>[a-z0-9-]+)-(?P<seed>\d+)-(?P<key>[0-9a-f]+)\.parquet")
ABOUT = "ssl-recall"  # the entry of the file's metadata


@dataclass(frozen=True)
class Cell:
    """One arm and seed of a run folder, with the file of its ranks."""

    run: Path
    config: Path | None
    reads: tuple[str, ...]
    arm: Arm
    depth: int
    file: Path
    targets: Targets = Targets.ALL

    @property
    def seed(self) -> int:
        """Return the seed of first weights, draws and views."""
        return int(self.arm.train.seed)


def cell(
    job: reader.Reader,
    reads: Sequence[str],
    config: Path | None,
    arm: Arm,
    seed: int,
    depth: int,
    folder: str,
    targets: Targets = Targets.ALL,
) -> Cell:
    """Return the cell of an arm and a seed; its file name in `folder` hashes version, settings, inputs and depth."""
    seeded, depth = arm.seeded(seed), max(depth, DEPTH)
    measured = (depth,) if targets is Targets.ALL else (depth, targets)
    key = seeded.key({name: job.inputs[name] for name in reads}, *measured)
    file = job.run / folder / f"{arm.name}-{seed}-{key}.parquet"
    return Cell(job.run, config, tuple(reads), seeded, depth, file, targets)


def measure_all(stage: str, cells: Sequence[Cell], pairs: int, jobs: int, *, force: bool) -> None:
    """Train every arm and seed without stored ranks, and print a line after each training. Raises Stopped."""
    missing = [cell for cell in cells if force or stored(cell, pairs) is None]
    if len(missing) < len(cells):
        console.line(f"{stage:<26} {len(cells) - len(missing)} of {len(cells)} arms and seeds are already trained")
    try:
        with (
            worker_pool.run_tasks(measure, missing, jobs) as results,
            console.progress(stage, len(missing), "models") as advance,
        ):
            for cell, said in results:
                console.line(f"{stage:<26} {cell.arm.name} seed {cell.seed}: {said}")
                advance(1)
    except (KeyboardInterrupt, signals.Terminated) as error:
        text = f"stopped; finished trainings are kept; to go on run: {console.same_command()}"
        raise Stopped(text, signals.number_of(error)) from None


def measure(cell: Cell) -> str:
    """Train the arm, rank the whole catalogue for every test query, publish the file, and summarise the recall."""
    start = time.monotonic()
    with reader.reading(cell.run, cell.reads, cell.config) as job:
        place = hardware.device_of(cell.arm.train.device)
        hardware.use(1, place)
        fit = trained(job, cell.arm, place)
        truth = truth_of(job, cell.targets)
        places = _places(job, fit, truth, cell.depth)
    about = {"best": fit.best, "epochs": len(fit.curve), "ranks": _hash(places)}
    with atomic_files.replacing(cell.file) as file:
        told = {"arm": cell.arm.name, **cell.arm.as_json(), **about}
        frame_of(truth, places).write_parquet(file, compression="zstd", metadata={ABOUT: json.dumps(told)})
    return f"{recall_line(fit.best)}; test {_said(truth, places)}; {time.monotonic() - start:.1f} s"


def stored(cell: Cell, pairs: int) -> "torch.Tensor | None":
    """Read the ranks of a file, (P,) int32 with 0 for null; return None if it is missing or damaged."""
    import pyarrow.parquet as pq
    import torch

    try:
        with cell.file.open("rb") as file:
            table = pq.ParquetFile(file)  # polars panics on some damaged files
            about = json.loads(table.metadata.metadata[ABOUT.encode()])
            places = torch.tensor(table.read(["rank"])["rank"].fill_null(0).to_numpy())
        whole = len(places) == pairs and about["ranks"] == _hash(places)
    except Exception:  # whatever the damage, the arm is trained again
        return None
    return places if whole else None


def measured(cell: Cell, pairs: int) -> "torch.Tensor":
    """Read the ranks that `measure_all` stored: (P,) int32, 0 for null."""
    found = stored(cell, pairs)
    assert found is not None, "measured before"
    return found


def sweep(folder: Path, cells: Iterable[Cell]) -> None:
    """Delete the rank files of outdated arms; keep those of all `cells`, of unpicked arms and seeds too."""
    current = {cell.file.name for cell in cells}
    for path in folder.glob("*.parquet"):
        if NAME.fullmatch(path.name) and path.name not in current:
            path.unlink(missing_ok=True)


def seeds_of(folder: Path) -> set[int]:
    """Return the seeds that have rank files."""
    found = (NAME.fullmatch(path.name) for path in folder.glob("*.parquet"))
    return {int(match["seed"]) for match in found if match}


def _places(job: reader.Reader, fit: Fit, truth: "Truth", depth: int) -> "torch.Tensor":
    """Rank the catalogue for each list, with the history before it: -> (P,) int32, 0 beyond `depth`."""
    from ssl_recall.data.histories import newest, so_far
    from ssl_recall.embedding import embed_items, embed_queries
    from ssl_recall.evaluation import metrics, retrieval

    items, queries, history = fit.catalogue, fit.asked, fit.settings.history
    rows, histories = truth.queries.to(fit.device), None
    offsets, taken = (part.to(fit.device) for part in truth.known)
    if history and truth.owners is not None:
        histories = newest(offsets, taken, history)
    elif history:
        log = training_inputs.interactions_before_test(job, queries.rows).to(fit.device)
        histories = so_far(log, rows, history)
    asked = embed_queries(fit.model, queries, rows, histories, items)
    found = embed_items(fit.model, items)
    if not (asked.isfinite().all() and found.isfinite().all()):
        raise NumberError("a vector is not finite; lower --learning-rate or raise --temperature", "NON_FINITE")
    lists, _ = retrieval.top_k(asked, found, depth, (offsets, taken))
    return metrics.ranks(lists.cpu(), truth.pair_rows, truth.pair_items)


def frame_of(truth: "Truth", places: "torch.Tensor") -> "pl.DataFrame":
    """Return the ranks (P,) with the query and the item of each pair; null stands for 0."""
    import polars as pl

    rank = pl.Series(places.numpy(), dtype=pl.Int32)
    return pl.DataFrame(
        {
            "query_index": pl.Series(truth.queries[truth.pair_rows].int().numpy()),
            "item_index": pl.Series(truth.pair_items.int().numpy()),
            "rank": rank.set(rank == 0, None),
        }
    )


def _said(truth: "Truth", places: "torch.Tensor") -> str:
    """Format the recall of each slice at the list length of the validation."""
    from ssl_recall.evaluation import metrics

    found = ((places > 0) & (places <= K)).double()
    members = {part: inside[truth.pair_items] for part, inside in metrics.slices(truth.counts).items()}
    return ", ".join(f"{found[inside].mean():.3f} {part}" for part, inside in members.items() if inside.any())


def _hash(places: "torch.Tensor") -> str:
    return hashlib.sha256(places.numpy().tobytes()).hexdigest()
