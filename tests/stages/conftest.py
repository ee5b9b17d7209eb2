"""A small prepared run folder, for the stages between prepare and train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.prepare import WRITES
from stages.run_folder.job import Job

from ..jobs import prepare

ITEMS = {
    "item_id": ["a", "b", "c", "d", "e", "f"],
    "item_id__code": [2, 3, 0, 0, 4, 0],
    "colour": ["red", "red", "blue", "blue", None, "green"],
    "colour__code": [2, 2, 3, 3, 0, 1],
    "shade": ["warm", "warm", "cold", "cold", None, "odd"],
    "shade__code": [2, 2, 3, 3, 0, 1],
    "tags": [["x", "y", "z"], ["y"], [], None, ["x"], ["z", "rare"]],
    "tags__code": [[2, 3, 4], [3], [], [], [2], [4, 1]],
    "size": [1.5, 2.5, None, 7.0, 8.0, 9.0],
    "size__code": [2, 2, 0, 3, 3, 3],
    "picture": [[1.0, 0.0], None, [0.0, 1.0], [0.5, 0.5], None, [1.0, 1.0]],
    "picture__code": [1, 0, 1, 1, 0, 1],
    "licence": ["free"] * 6,
    "licence__code": [2] * 6,
}
FEATURES = {
    "item_id": ("id", 5, 0),
    "colour": ("categorical", 4, 0),
    "shade": ("categorical", 4, 0),
    "tags": ("multi-valued", 5, 0),
    "size": ("numeric", 4, 0),
    "picture": ("dense", 2, 2),
    "licence": ("categorical", 3, 0),
}
VALUES = {
    "item_id": "abe",
    "colour": ["red", "blue"],
    "shade": ["warm", "cold"],
    "tags": "xyz",
    "size": ["[1.5, 5)", "[5, 9]"],
    "licence": ["free"],
}
TAKEN = ["a", "a", "a", "b", "e", "e"]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """Six items, seven features, six training interactions, as prepare leaves them."""
    dtypes: dict[str, pl.DataType] = {name: pl.Int32() for name in ITEMS if name.endswith("__code")}
    items = pl.DataFrame(
        ITEMS, schema_overrides=dtypes | {"tags__code": pl.List(pl.Int32), "picture": pl.Array(pl.Float32, 2)}
    )
    features = pl.DataFrame(
        [("item", name, kind, name, codes, width, 0.0) for name, (kind, codes, width) in FEATURES.items()],
        schema={
            "side": pl.String,
            "feature": pl.String,
            "kind": pl.String,
            "vocabulary": pl.String,
            "codes": pl.Int64,
            "width": pl.Int32,
            "missing": pl.Float64,
        },
        orient="row",
    )
    vocabulary = pl.DataFrame(
        [
            (name, code + 2, value, None, None, 1)
            for name, values in VALUES.items()
            for code, value in enumerate(values)
        ],
        schema={
            "vocabulary": pl.String,
            "code": pl.Int32,
            "value": pl.String,
            "low": pl.Float64,
            "high": pl.Float64,
            "count": pl.Int64,
        },
        orient="row",
    )
    index = pl.Series([ITEMS["item_id"].index(item) for item in TAKEN], dtype=pl.Int32)
    train = pl.DataFrame({"query_id": range(6), "item_id": TAKEN, "item_index": index}).select(
        "query_id", "item_id", pl.col("query_id").cast(pl.Int32).alias("query_index"), "item_index"
    )
    run = tmp_path / "run"
    publish(run, {"items": items, "features": features, "vocabulary": vocabulary, "train": train})
    return run


def publish(run: Path, tables: dict[str, pl.DataFrame]) -> None:
    with Job(run, "prepare", {}, writes=[f"{name}.parquet" for name in tables], force=True) as job:
        for name, table in tables.items():
            job.write(f"{name}.parquet", table)


@pytest.fixture
def prepared_again() -> Callable[..., None]:
    """Put other tables into a prepared run folder, as prepare would on another catalogue."""

    def replace(run: Path, **tables: pl.DataFrame) -> None:
        names = ("items", "features", "vocabulary", "train")
        publish(run, {name: tables.get(name, pl.read_parquet(run / f"{name}.parquet")) for name in names})

    return replace


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., dict[str, pl.DataFrame]]:
    """Write tables as Parquet files, run prepare on them, and give every artifact."""

    def call(
        log: pl.DataFrame, items: pl.DataFrame, queries: pl.DataFrame | None = None, folder: str = ".", **settings: Any
    ) -> dict[str, pl.DataFrame]:
        (tmp_path / folder).mkdir(exist_ok=True)
        frames = {"interactions": log, "items": items} | ({} if queries is None else {"queries": queries})
        files = {name: tmp_path / folder / f"{name}.parquet" for name in frames}
        for name, frame in frames.items():
            frame.write_parquet(files[name])
        run = tmp_path / folder / "run"
        prepare(**files, run=run, **settings)
        return {name.removesuffix(".parquet"): pl.read_parquet(run / name) for name in WRITES}

    return call
