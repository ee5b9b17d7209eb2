"""Validate, encode and split the user's tables; training reads only the artifacts."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages.run_folder import layout
from stages.run_folder.job import Job
from stages.run_folder.memory_floor import Need
from stages.terminal import console
from stages.user_tables import catalogue, tables
from stages.user_tables.interactions import CheckedInteractions, read_interactions
from stages.user_tables.settings import PrepareSettings, SourceTables
from stages.user_tables.splitting import split_interactions

from .options import StageFolder, recorded

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

PART = 2**20  # interactions per write
SPLIT_FILES = (layout.TRAIN, layout.VALIDATION, layout.TEST)  # in the order of splits.SIDES
WRITES = (
    layout.FEATURES,
    layout.VOCABULARY,
    layout.ITEMS,
    layout.QUERIES,
    *SPLIT_FILES,
    layout.QUARANTINE,
)


def prepare(sources: SourceTables, folder: StageFolder, settings: PrepareSettings) -> None:
    """Check the interactions and the catalogue, encode the features, split by time (or by a seeded hash of the pair).

    Reads the user's tables; writes items, queries, train, validation, test, features, vocabulary, and quarantine: the
    unusable interactions with the reason.
    """
    paths = sources.paths
    need = Need(lambda _: tables.least_memory(sources.interactions))
    with folder.job("prepare", recorded(settings), sources=paths, writes=WRITES, need=need) as job:
        if job.up_to_date:
            return
        found = tables.scan_all(paths, settings)
        sides = catalogue.read(found, settings)
        log = read_interactions(found["interactions"], sides, settings)
        sizes, taken = _write_split(job, log, sides.items.ids, settings)
        _warn(log, folder.run)
        encoded = catalogue.encode(sides, log.queries, taken, settings, shared=log.queries_are_items)
        job.write(layout.QUARANTINE, log.quarantine)
        below = log.below
        del log  # free it before the catalogue is read again
        job.write(layout.FEATURES, encoded.features)
        job.write(layout.VOCABULARY, encoded.vocabulary)
        listed = job.write_parts(layout.ITEMS, encoded.items)
        asking = job.write_parts(layout.QUERIES, encoded.queries)
        counts = ", ".join(f"{rows:,} {name}" for name, rows in sizes.items())
        counts += f", {below:,} below --min-weight" if below else ""
        how = "time" if settings.timestamp is not None else "a hash of the pair"
        job.done(f"{listed:,} items, {asking:,} queries; split by {how}: {counts}")


def _write_split(
    job: Job, log: CheckedInteractions, items: "pl.Series", settings: PrepareSettings
) -> "tuple[dict[str, int], dict[str, NDArray[np.int64]]]":
    """Write train, validation and test; return their rows, and the training interactions per item and per query."""
    import numpy as np

    from ssl_recall.data import splits

    place = split_interactions(log, items, settings)
    sizes, taken = {}, {}
    for number, (name, file) in enumerate(zip(splits.SIDES, SPLIT_FILES, strict=True)):
        rows = np.flatnonzero(place == number)
        sizes[name] = job.write_parts(file, _parts(log, items, rows))
        if number == splits.TRAIN:
            for side, ids in (("item", items), ("query", log.queries)):
                index = log.log[f"{side}_index"].to_numpy()[rows]
                taken[side] = np.bincount(index, minlength=len(ids)).astype(np.int64)
    return sizes, taken


def _parts(log: CheckedInteractions, items: "pl.Series", rows: "NDArray[np.int64]") -> "Iterator[pl.DataFrame]":
    """Yield the given rows of the interactions with their ids, `PART` rows at a time."""
    for low in range(0, max(len(rows), 1), PART):
        part = log.log[rows[low : low + PART]]
        ids = log.queries.gather(part["query_index"]), items.gather(part["item_index"])
        yield part.select(ids[0].alias("query_id"), ids[1].alias("item_id"), *part.columns)


def _warn(found: CheckedInteractions, run: Path) -> None:
    """Warn of interactions set aside, by reason, and of repeated pairs."""
    total = found.log.height + found.quarantine.height + found.repeated
    place = run / layout.QUARANTINE
    for reason, count in found.quarantine.group_by("reason").len().sort("reason").iter_rows():
        console.warn(f"{count:,} interactions set aside ({count / total:.1%}): {reason}; see {place}")
    if found.repeated:
        timed = "timestamp" in found.log.columns
        which = "the earliest is kept" if timed else "one of each is kept"
        console.warn(f"{found.repeated:,} interactions repeat a pair of query and item; {which}")
