"""The references of the stages: the same core work in a well-known library, one process per reference.

python benchmarks/references.py polars_group_by .bench/1m
"""

import sys
from itertools import combinations
from pathlib import Path

import polars as pl


def polars_group_by(folder: Path) -> None:
    """Count the items of the training interactions."""
    pl.scan_parquet(folder / "run" / "train.parquet").group_by("item_id").len().collect(engine="streaming")


def polars_pairs(folder: Path) -> None:
    """Count the pairs of values of all pairs of single-valued features, in one query; leave lists out."""
    items = pl.scan_parquet(folder / "run" / "items.parquet")
    names = [n for n, t in items.collect_schema().items() if n.endswith("__code") and t == pl.Int32 and "id" not in n]
    codes = items.select(names).collect().lazy()
    pl.collect_all([codes.group_by(a, b).len() for a, b in combinations(names, 2)])


def polars_prepare(folder: Path) -> None:
    """Read both tables, look up both ids, split by time, sort, and write the three parts."""
    items = pl.scan_parquet(folder / "items.parquet").select("item_id").with_row_index("item_index")
    log = pl.scan_parquet(folder / "interactions.parquet")
    users = log.select(pl.col("user_id").unique().sort()).with_row_index("user_index")
    indexed = log.join(items, on="item_id").join(users, on="user_id").collect()
    cuts = [indexed["timestamp"].quantile(share) for share in (0.8, 0.9)]
    side = pl.when(pl.col("timestamp") < cuts[0]).then(0).when(pl.col("timestamp") < cuts[1]).then(1).otherwise(2)
    for number, part in enumerate(indexed.with_columns(side=side).partition_by("side", maintain_order=True)):
        sorted_part = part.sort("user_index", "timestamp", "item_index")
        sorted_part.write_parquet(folder / f"reference_{number}.parquet", compression="zstd")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
