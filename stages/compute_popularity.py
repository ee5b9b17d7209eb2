"""Count the training interactions of each item."""

import contextlib

from stages.learning import recency
from stages.learning.popularity_settings import PopularitySettings, check, recorded_popularity
from stages.run_folder import layout

from .options import StageFolder

READS = (layout.TRAIN, layout.ITEMS)
WRITES = (layout.POPULARITY,)
ROWS = 2**22  # rows of the log per batch; a batch also costs a pass over the counts of the catalogue


def compute_popularity(folder: StageFolder, settings: PopularitySettings) -> None:
    """Compute the share p of each item in the training interactions, and log p, for the logQ correction.

    Reads train.parquet and items.parquet; writes popularity.parquet: every item of the catalogue with its exact count,
    p and log p (natural logarithm). A cold item counts --unseen-count. p sums to 1. With --half-life or --window, p is
    the share of the weighted interactions, and training draws interactions by the same weights.
    """
    with folder.job("compute-popularity", recorded_popularity(settings), reads=READS, writes=WRITES) as job:
        if job.up_to_date:
            return
        check(settings, timed=job.has_column(layout.TRAIN, "timestamp"))
        import numpy as np
        import polars as pl

        from ssl_recall import popularity

        items = job.read(layout.ITEMS, ["item_id"])
        with contextlib.closing(job.columns(layout.TRAIN, "item_index", ROWS)) as parts:
            counts = popularity.count_items(parts, items.height)
        weighted = recency.weighted_counts(job, settings, items.height) if settings.by_age else counts
        p, log_p = popularity.log_popularity(weighted, settings.unseen_count)
        job.write(
            layout.POPULARITY, items.with_columns(count=pl.Series(counts), p=pl.Series(p), log_p=pl.Series(log_p))
        )
        said = f"{items.height:,} items, {np.count_nonzero(counts == 0):,} never taken, {counts.sum():,} interactions"
        if settings.by_age:
            light = np.count_nonzero((counts > 0) & (weighted < settings.unseen_count))
            said += f" of weight {weighted.sum():,.1f}, {light:,} items taken weigh less than --unseen-count"
        job.done(said)
