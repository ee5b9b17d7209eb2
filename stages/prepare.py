"""Validate, encode and split the user's tables; after this nobody opens raw data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import artifacts, catalogue, console, events, feature_columns, tables

if TYPE_CHECKING:
    import polars as pl

WRITES = (
    "features.parquet",
    "vocabulary.parquet",
    "items.parquet",
    "queries.parquet",
    "train.parquet",
    "validation.parquet",
    "test.parquet",
    "quarantine.parquet",
)
_FEATURE_HELP = (
    "NAME=KIND[,OPTION=VALUE..]: categorical, multi-valued, numeric, dense or exclude; options min_count, max_values, "
    "buckets, separator, nan=missing. Repeatable; a column left out is what its type says."
)


def prepare(
    interactions: Annotated[Path, typer.Option(help="Parquet or CSV: a file, a folder or a glob.")],
    items: Annotated[Path, typer.Option(help="The catalogue, one row an item.")],
    queries: Annotated[Path | None, typer.Option(help="Features of the queries (users, or seed items).")] = None,
    run: artifacts.RunOption = artifacts.DEFAULT_RUN,
    config: artifacts.ConfigOption = None,
    query_id: Annotated[str, typer.Option(help="Column of the query's id.")] = "query_id",
    item_id: Annotated[str, typer.Option(help="Column of the item's id.")] = "item_id",
    timestamp: Annotated[str | None, typer.Option(help="Column of the time; with it the split is by time.")] = None,
    null_timestamp: Annotated[
        events.NullTimestamp, typer.Option(help="What becomes of interactions without a time.")
    ] = events.NullTimestamp.REFUSE,
    weight: Annotated[str | None, typer.Option(help="Column of the weight or rating.")] = None,
    min_weight: Annotated[float | None, typer.Option(help="Keep interactions of at least this weight.")] = None,
    queries_are_items: Annotated[
        bool | None,
        typer.Option(
            help="Item to item: ids and features of one name share their vectors. [default: at least 90 % of the "
            "query ids are item ids, and not for being small numbers]",
            show_default=False,
        ),
    ] = None,
    use_query_id: Annotated[bool, typer.Option(help="Describe a query by its id, too.")] = True,
    item_features: Annotated[
        list[str] | None, typer.Option("--item-feature", callback=feature_columns.merged, help=_FEATURE_HELP)
    ] = None,
    query_features: Annotated[
        list[str] | None, typer.Option("--query-feature", callback=feature_columns.merged, help="The same for queries.")
    ] = None,
    min_count: Annotated[int, typer.Option(min=1, help="Values that fewer rows bear are one, 'unknown'.")] = 1,
    max_values: Annotated[int, typer.Option(min=1, help="Values kept of a list.")] = 16,
    buckets: Annotated[int, typer.Option(min=2, help="Quantile buckets of a number.")] = 10,
    id_min_count: Annotated[int, typer.Option(min=1, help="Training interactions that earn an id vector.")] = 1,
    validation_share: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share held out to pick the epoch.")] = 0.1,
    test_share: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share held out to measure.")] = 0.1,
    max_unknown_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Refuse when more interactions name unknown items or queries.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Of the split where there is no time.")] = 1,
    force: artifacts.ForceOption = False,
) -> None:
    """Check the interactions and the catalogue, encode the features, split by time (or by a seeded hash of the pair).

    Reads the user's tables; writes items, queries, train, validation, test, features, vocabulary, and quarantine: the
    interactions that were set aside, with the reason.
    """
    paths = {"interactions": interactions, "items": items} | ({"queries": queries} if queries else {})
    settings = {name: value for name, value in locals().items() if name not in {*paths, "queries", "paths"}}
    with artifacts.Job(run, "prepare", settings, sources=paths, writes=WRITES, force=force) as job:
        if job.up_to_date:
            return
        frames = tables.read_all(paths, {"query": query_id, "item": item_id})
        known = catalogue.read(paths, frames, settings)
        found = events.read(interactions, frames["interactions"], known, settings)
        parts = events.split(found.log, settings)
        encoded = catalogue.encode(known, found.log, parts["train"], settings, shared=found.queries_are_items)
        for name, frame in encoded.items():
            job.write(f"{name}.parquet", frame)
        for name, part in parts.items():
            job.write(f"{name}.parquet", _indexed(part, encoded))
        job.write("quarantine.parquet", found.quarantine)
        _warn(found)
        sizes = ", ".join(f"{part.height:,} {name}" for name, part in parts.items())
        sizes += f", {found.below:,} below the least weight" if found.below else ""
        how = "time" if timestamp is not None else "a hash of the pair"
        job.done(f"{encoded['items'].height:,} items, {encoded['queries'].height:,} queries; split by {how}: {sizes}")


def _indexed(part: "pl.DataFrame", encoded: "dict[str, pl.DataFrame]") -> "pl.DataFrame":
    """Add the row numbers in queries.parquet and items.parquet, and sort by query, time and item."""
    import polars as pl

    for side, table in (("query", "queries"), ("item", "items")):
        ids = encoded[table].select(f"{side}_id").with_row_index(f"{side}_index")
        part = part.join(ids, on=f"{side}_id", how="left", validate="m:1").with_columns(
            pl.col(f"{side}_index").cast(pl.Int32)
        )
    times = [name for name in ("timestamp",) if name in part.columns]
    rest = [name for name in ("timestamp", "weight") if name in part.columns]
    part = part.sort("query_index", *times, "item_index")
    return part.select("query_id", "item_id", "query_index", "item_index", *rest)


def _warn(found: events.Events) -> None:
    """Say what was set aside."""
    total = found.log.height + found.quarantine.height + found.repeated
    for reason, count in found.quarantine.group_by("reason").len().sort("reason").iter_rows():
        console.warn(f"{count:,} interactions set aside ({count / total:.1%}): {reason}; see quarantine.parquet")
    if found.repeated:
        timed = "timestamp" in found.log.columns
        which = "the earliest is kept" if timed else "one of each is kept"
        console.warn(f"{found.repeated:,} interactions repeat a pair of query and item; {which}")
