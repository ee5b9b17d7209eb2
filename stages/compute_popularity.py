"""Count how often each item stands in the training interactions."""

from typing import Annotated

import typer

from . import artifacts

READS = ("train.parquet", "items.parquet")
WRITES = ("popularity.parquet",)


def compute_popularity(
    run: artifacts.RunOption = artifacts.DEFAULT_RUN,
    config: artifacts.ConfigOption = None,
    unseen_count: Annotated[
        float, typer.Option(min=1e-6, max=1.0, help="What an item never taken counts, in interactions.")
    ] = 0.01,
    force: artifacts.ForceOption = False,
) -> None:
    """Compute each item's share p of the training interactions, and log p, for the logQ correction.

    Reads train.parquet and items.parquet; writes popularity.parquet: every item of the catalogue with its exact count,
    p and log p (natural logarithm). An item never taken counts --unseen-count; nothing is clipped, p sums to 1.
    """
    with artifacts.Job(run, "compute-popularity", locals(), reads=READS, writes=WRITES, force=force) as job:
        if job.up_to_date:
            return
        from ssl_recall import popularity

        interactions = job.scan("train.parquet")
        shares = popularity.log_popularity(interactions, job.scan("items.parquet"), unseen_count).collect()

        taken, unseen = int(shares["count"].sum()), int((shares["count"] == 0).sum())
        assert taken == interactions.select("item_id").collect().height, "an interaction's item is not in items.parquet"
        job.write("popularity.parquet", shares)
        job.done(f"{shares.height:,} items, {unseen:,} never taken, {taken:,} interactions")
