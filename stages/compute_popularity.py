"""Count how often each item stands in the training interactions."""

import contextlib
from typing import Annotated

import typer

from . import artifacts, options

READS = ("train.parquet", "items.parquet")
WRITES = ("popularity.parquet",)
ROWS = 2**22  # of the log at a time: each batch costs a pass over the catalogue's counts, too


def compute_popularity(
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    unseen_count: Annotated[
        float, typer.Option(min=1e-6, max=1.0, help="What an item never taken counts, in interactions.")
    ] = 0.01,
    force: options.ForceOption = False,
) -> None:
    """Compute each item's share p of the training interactions, and log p, for the logQ correction.

    Reads train.parquet and items.parquet; writes popularity.parquet: every item of the catalogue with its exact count,
    p and log p (natural logarithm). An item never taken counts --unseen-count; nothing is clipped, p sums to 1.
    """
    with artifacts.Job(run, "compute-popularity", locals(), reads=READS, writes=WRITES, force=force) as job:
        if job.up_to_date:
            return
        import numpy as np
        import polars as pl

        from ssl_recall import popularity

        items = job.read("items.parquet", ["item_id"])
        with contextlib.closing(job.columns("train.parquet", "item_index", ROWS)) as parts:
            counts = popularity.count_items(parts, items.height)
        p, log_p = popularity.log_popularity(counts, unseen_count)
        job.write(
            "popularity.parquet", items.with_columns(count=pl.Series(counts), p=pl.Series(p), log_p=pl.Series(log_p))
        )
        job.done(
            f"{items.height:,} items, {np.count_nonzero(counts == 0):,} never taken, {counts.sum():,} interactions"
        )
