"""Write a log and a catalogue of any size: Zipf popularity, correlated features, some of them multi-valued.

    python benchmarks/synthetic.py --items 1000000 --interactions 10000000 --output .bench/1m

Every item belongs to one of 300 hidden groups. A feature is a function of the group, with noise, so the features are
correlated. The tables are written one row group at a time, so that memory does not grow.
"""

import argparse
import contextlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1_000_000  # per row group
GROUPS = 300
SINGLE = (4, 12, 30, 80, 200, 500, 1000, 5000)  # values of the single-valued features
SEVERAL = (40, 300, 2000, 20000)  # values of the multi-valued features
LONGEST = 5  # most values per item
NOISE = 0.3  # share of random values


def groups_of(rows: np.ndarray) -> np.ndarray:
    """Return the hidden group of each item: a hash of its row number, so that no table is needed."""
    return (rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)).astype(np.int64) % GROUPS


def feature(rng: np.random.Generator, groups: np.ndarray, size: int) -> np.ndarray:
    """Draw values below `size` that depend on the group, except for a share of noise."""
    told = (groups * 7919) % size
    return np.where(rng.random(len(groups)) < NOISE, rng.integers(0, size, len(groups)), told)


def items_table(rng: np.random.Generator, low: int, high: int) -> pa.Table:
    """Make the rows low .. high - 1 of the catalogue."""
    rows = np.arange(low, high)
    groups = groups_of(rows)
    columns: dict[str, pa.Array] = {"item_id": pa.array(rows, pa.int64())}
    for number, size in enumerate(SINGLE):
        columns[f"single_{number}"] = pa.array([f"v{n}" for n in range(size)]).take(
            pa.array(feature(rng, groups, size), pa.int32())
        )
    for number, size in enumerate(SEVERAL):
        lengths = rng.integers(1, LONGEST + 1, len(rows))
        place = np.arange(lengths.sum()) % 3  # three values per group
        values = feature(rng, np.repeat(groups, lengths) * 3 + place, size).astype(np.int32)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        columns[f"several_{number}"] = pa.ListArray.from_arrays(offsets, pa.array(values))
    return pa.table(columns)


def interactions_table(rng: np.random.Generator, rows: int, items: int, users: int, start: int) -> pa.Table:
    """Make interactions in the order of time: items by a Zipf law over shuffled ranks."""
    rank = np.minimum(rng.zipf(1.15, rows), items) - 1
    item = (rank * 2654435761 + 12345) % items
    return pa.table(
        {
            "user_id": pa.array(rng.integers(0, users, rows), pa.int64()),
            "item_id": pa.array(item, pa.int64()),
            "timestamp": pa.array(1_600_000_000 + start + np.arange(rows), pa.int64()),
        }
    )


def write(folder: Path, items: int, interactions: int, seed: int = 1) -> None:
    """Write items.parquet and interactions.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    parts = (items_table(rng, low, min(low + ROWS, items)) for low in range(0, items, ROWS))
    _write(folder / "items.parquet", parts)
    log = (
        interactions_table(rng, min(ROWS, interactions - low), items, max(items // 2, 100), low)
        for low in range(0, interactions, ROWS)
    )
    _write(folder / "interactions.parquet", log)


def _write(path: Path, tables: Iterable[pa.Table]) -> None:
    with contextlib.ExitStack() as stack:
        writer = None
        for table in tables:
            writer = writer or stack.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
            writer.write_table(table)


def main() -> None:
    """Write the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--interactions", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    write(arguments.output, arguments.items, arguments.interactions)


if __name__ == "__main__":
    main()
