"""Where the test pairs stand in their queries' lists, under one arm and one seed: measured once, kept in a file.

A killed ablation goes on from these files, and only what has changed is trained again: a file's name carries the key of
all that its content depends on.
"""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import arms, evaluate, fitting, models, processor, publish, reader
from .errors import NumberError

if TYPE_CHECKING:
    import polars as pl
    import torch


FOLDER = "ablation"
DEPTH = 100  # ranks that are kept at least: another --k up to it trains nothing
NAME = re.compile(r"(?P<arm>[a-z0-9-]+)-(?P<seed>\d+)-(?P<key>[0-9a-f]+)\.parquet")
ABOUT = "ssl-recall"  # the entry of the file's metadata


@dataclass(frozen=True)
class Cell:
    """One arm and seed of a run folder, and the file of its ranks."""

    run: Path
    config: Path | None
    reads: tuple[str, ...]
    arm: arms.Arm
    depth: int
    file: Path

    @property
    def seed(self) -> int:
        """Give the seed of first weights, draws and views."""
        return int(self.arm.train["seed"])


def cell(job: reader.Reader, reads: Sequence[str], config: Path | None, arm: arms.Arm, seed: int, depth: int) -> Cell:
    """Name the file of an arm and a seed: the key is of the version, the settings, the inputs and the depth."""
    seeded, depth = arm.seeded(seed), max(depth, DEPTH)
    key = seeded.key({name: job.inputs[name] for name in reads}, depth)
    return Cell(job.run, config, tuple(reads), seeded, depth, job.run / FOLDER / f"{arm.name}-{seed}-{key}.parquet")


def measure(cell: Cell) -> str:
    """Train the arm, rank the whole catalogue for every test query, publish the file, and say what came out."""
    start = time.monotonic()
    with reader.reading(cell.run, cell.reads, cell.config) as job:
        place = models.device_of(cell.arm.train["device"])
        processor.use(1, place)
        fit = arms.trained(job, cell.arm, place)
        truth = evaluate.truth_of(job)
        places = _places(job, fit, truth, cell.depth)
    seconds, frame = time.monotonic() - start, _frame(truth, places)
    about = {"best": fit.best, "epochs": len(fit.curve), "seconds": seconds, "ranks": _hash(places)}
    with publish.replacing(cell.file) as file:
        told = {"arm": cell.arm.name, "train": cell.arm.train, "views": cell.arm.views, **about}
        frame.write_parquet(file, compression="zstd", metadata={ABOUT: json.dumps(told)})
    return f"{fitting.said(fit.best)}; test {_said(truth, places)}; {seconds:.1f} s"


def stored(cell: Cell, pairs: int) -> "torch.Tensor | None":
    """Read a file's ranks, (P,) int32 with 0 for null; None where it is not whole."""
    import pyarrow.parquet as pq
    import torch

    try:
        with cell.file.open("rb") as file:
            table = pq.ParquetFile(file)  # polars panics on some damaged files
            about = json.loads(table.metadata.metadata[ABOUT.encode()])
            places = torch.tensor(table.read(["rank"])["rank"].fill_null(0).to_numpy())
        whole = len(places) == pairs and about["ranks"] == _hash(places)
    except Exception:  # whatever is wrong with it, it is made again
        return None
    return places if whole else None


def sweep(run: Path, cells: Mapping[tuple[str, int], Cell]) -> None:
    """Remove the files of arms and seeds as they were; `cells` may hold more than were asked for, to be kept."""
    current = {cell.file.name for cell in cells.values()}
    for path in (run / FOLDER).glob("*.parquet"):
        if NAME.fullmatch(path.name) and path.name not in current:
            path.unlink(missing_ok=True)


def seeds_of(run: Path) -> set[int]:
    """Give the seeds that the folder has files of."""
    found = (NAME.fullmatch(path.name) for path in (run / FOLDER).glob("*.parquet"))
    return {int(match["seed"]) for match in found if match}


def _places(job: reader.Reader, fit: fitting.Fit, truth: evaluate.Truth, depth: int) -> "torch.Tensor":
    """Rank the catalogue for the test queries as they stand before the test: -> (P,) int32, 0 beyond the depth."""
    from ssl_recall import metrics, retrieval, training

    items, queries, history = fit.catalogue, fit.asked, fit.settings["history"]
    log = models.log_before_test(job, queries.rows).to(fit.device) if history else None
    asked = training.embed_queries(fit.model, queries, log, items, history, truth.queries.to(fit.device))
    found = training.embed_items(fit.model, items)
    if not (asked.isfinite().all() and found.isfinite().all()):
        raise NumberError("a vector is not finite; lower --learning-rate or raise --temperature", "NON_FINITE")
    offsets, taken = truth.known
    lists, _ = retrieval.top_k(asked, found, depth, (offsets.to(fit.device), taken.to(fit.device)))
    return metrics.ranks(lists.cpu(), truth.pair_rows, truth.pair_items)


def _frame(truth: evaluate.Truth, places: "torch.Tensor") -> "pl.DataFrame":
    import polars as pl

    rank = pl.Series(places.numpy(), dtype=pl.Int32)
    return pl.DataFrame(
        {
            "query_index": pl.Series(truth.queries[truth.pair_rows].int().numpy()),
            "item_index": pl.Series(truth.pair_items.int().numpy()),
            "rank": rank.set(rank == 0, None),
        }
    )


def _said(truth: evaluate.Truth, places: "torch.Tensor") -> str:
    """Say the recall of the slices at the k of the validation."""
    from ssl_recall import metrics

    found = ((places > 0) & (places <= fitting.K)).double()
    members = {part: inside[truth.pair_items] for part, inside in metrics.slices(truth.counts).items()}
    return ", ".join(f"{found[inside].mean():.3f} {part}" for part, inside in members.items() if inside.any())


def _hash(places: "torch.Tensor") -> str:
    return hashlib.sha256(places.numpy().tobytes()).hexdigest()
