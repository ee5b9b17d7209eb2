"""Rank files: a file is read as it was written, or refused."""

import json
from pathlib import Path

import polars as pl
import pytest
import torch

from stages.learning import arm_ranks
from stages.learning.arm import Arm


@pytest.fixture
def stored(tmp_path: Path) -> tuple[arm_ranks.Cell, torch.Tensor]:
    """Write a rank file of 300 pairs, and return its ranks."""
    places = torch.arange(300, dtype=torch.int32) % 101
    cell = arm_ranks.Cell(tmp_path, None, (), Arm("mine", {}, None, frozenset()), 100, tmp_path / "a.parquet")
    write_ranks(cell.file, pl.Series("rank", places.numpy()), json.dumps({"ranks": arm_ranks._hash(places)}))
    return cell, places


def write_ranks(path: Path, rank: pl.Series, about: str) -> None:
    frame = pl.DataFrame({"query_index": pl.int_range(len(rank), eager=True), "rank": rank.set(rank == 0, None)})
    frame.write_parquet(path, metadata={"ssl-recall": about})


def test_a_damaged_rank_file_is_read_as_it_was_or_not_at_all(
    stored: tuple[arm_ranks.Cell, torch.Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    cell, places = stored
    whole, nothing = cell.file.read_bytes(), 0
    for at in range(0, len(whole), 13):  # polars panics at some places, and prints a traceback
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        for content in (bytes(damaged), whole[:at], whole[at + 1 :]):
            cell.file.write_bytes(content)
            found = arm_ranks.stored(cell, 300)
            nothing += found is None
            assert found is None or found.equal(places), at
    assert nothing > 100
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("about", ["[]", "null", "3", "{}", '{"ranks": 3}', "{", '{"a":' * 50_000])
def test_a_rank_file_that_says_other_things_of_itself_is_none(
    stored: tuple[arm_ranks.Cell, torch.Tensor], about: str
) -> None:
    cell, places = stored
    write_ranks(cell.file, pl.Series("rank", places.numpy()), about)
    assert arm_ranks.stored(cell, 300) is None


@pytest.mark.parametrize("kind", [pl.String, pl.Float64, pl.Int64, pl.Boolean, pl.Date])
def test_ranks_of_another_type_or_number_are_none(
    stored: tuple[arm_ranks.Cell, torch.Tensor], kind: pl.DataType
) -> None:
    cell, places = stored
    assert arm_ranks.stored(cell, 300) is not None
    assert arm_ranks.stored(cell, 299) is None
    about, rank = json.dumps({"ranks": arm_ranks._hash(places)}), pl.Series("rank", places.numpy())
    write_ranks(cell.file, rank.head(299), about)
    assert arm_ranks.stored(cell, 300) is None
    cast = pl.DataFrame({"rank": rank}).select(pl.col("rank").cast(kind))
    cast.write_parquet(cell.file, metadata={"ssl-recall": about})
    assert arm_ranks.stored(cell, 300) is None
    cast.rename({"rank": "place"}).write_parquet(cell.file, metadata={"ssl-recall": about})
    assert arm_ranks.stored(cell, 300) is None
