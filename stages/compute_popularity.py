"""Count the training interactions of each item."""

import contextlib
from dataclasses import dataclass
from typing import Annotated

from typer import Option

from stages.run_folder import layout

from .options import StageFolder, recorded

READS = (layout.TRAIN, layout.ITEMS)
WRITES = (layout.POPULARITY,)
ROWS = 2**22  # rows of the log per batch; a batch also costs a pass over the counts of the catalogue


@dataclass(frozen=True)
class PopularitySettings:
    """Every flag of `compute-popularity` but the run folder's."""

    unseen_count: Annotated[float, Option(min=1e-6, max=1.0, help="Count of a cold item, in interactions.")] = 0.01


def compute_popularity(folder: StageFolder, settings: PopularitySettings) -> None:
    """Compute the share p of each item in the training interactions, and log p, for the logQ correction.

    Reads train.parquet and items.parquet; writes popularity.parquet: every item of the catalogue with its exact count,
    p and log p (natural logarithm). A cold item counts --unseen-count. Nothing is clipped; p sums to 1.
    """
    with folder.job("compute-popularity", recorded(settings), reads=READS, writes=WRITES) as job:
        if job.up_to_date:
            return
        import numpy as np
        import polars as pl

        from ssl_recall import popularity

        items = job.read(layout.ITEMS, ["item_id"])
        with contextlib.closing(job.columns(layout.TRAIN, "item_index", ROWS)) as parts:
            counts = popularity.count_items(parts, items.height)
        p, log_p = popularity.log_popularity(counts, settings.unseen_count)
        job.write(
            layout.POPULARITY, items.with_columns(count=pl.Series(counts), p=pl.Series(p), log_p=pl.Series(log_p))
        )
        job.done(
            f"{items.height:,} items, {np.count_nonzero(counts == 0):,} never taken, {counts.sum():,} interactions"
        )
