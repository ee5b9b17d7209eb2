"""ranks: a file is read as it was written, or not at all."""

import json
from pathlib import Path

import polars as pl
import pytest
import torch

from stages import arms, ranks


@pytest.fixture
def stored(tmp_path: Path) -> tuple[ranks.Cell, torch.Tensor]:
    """A rank file of 300 pairs, and what it holds."""
    places = torch.arange(300, dtype=torch.int32) % 101
    cell = ranks.Cell(tmp_path, None, (), arms.Arm("mine", {}, None, frozenset()), 100, tmp_path / "a.parquet")
    write_ranks(cell.file, pl.Series("rank", places.numpy()), json.dumps({"ranks": ranks._hash(places)}))
    return cell, places


def write_ranks(path: Path, rank: pl.Series, about: str) -> None:
    frame = pl.DataFrame({"query_index": pl.int_range(len(rank), eager=True), "rank": rank.set(rank == 0, None)})
    frame.write_parquet(path, metadata={"ssl-recall": about})


def test_a_damaged_rank_file_is_read_as_it_was_or_not_at_all(
    stored: tuple[ranks.Cell, torch.Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    cell, places = stored
    whole, nothing = cell.file.read_bytes(), 0
    for at in range(0, len(whole), 13):  # polars panics at some of these, and a panic prints its own traceback
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        for content in (bytes(damaged), whole[:at], whole[at + 1 :]):
            cell.file.write_bytes(content)
            found = ranks.stored(cell, 300)
            nothing += found is None
            assert found is None or found.equal(places), at
    assert nothing > 100
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("about", ["[]", "null", "3", "{}", '{"ranks": 3}', "{", '{"a":' * 50_000])
def test_a_rank_file_that_says_other_things_of_itself_is_none(
    stored: tuple[ranks.Cell, torch.Tensor], about: str
) -> None:
    cell, places = stored
    write_ranks(cell.file, pl.Series("rank", places.numpy()), about)
    assert ranks.stored(cell, 300) is None


@pytest.mark.parametrize("kind", [pl.String, pl.Float64, pl.Int64, pl.Boolean, pl.Date])
def test_ranks_of_another_type_or_number_are_none(stored: tuple[ranks.Cell, torch.Tensor], kind: pl.DataType) -> None:
    cell, places = stored
    assert ranks.stored(cell, 300) is not None
    assert ranks.stored(cell, 299) is None
    about, rank = json.dumps({"ranks": ranks._hash(places)}), pl.Series("rank", places.numpy())
    write_ranks(cell.file, rank.head(299), about)
    assert ranks.stored(cell, 300) is None
    cast = pl.DataFrame({"rank": rank}).select(pl.col("rank").cast(kind))
    cast.write_parquet(cell.file, metadata={"ssl-recall": about})
    assert ranks.stored(cell, 300) is None
    cast.rename({"rank": "place"}).write_parquet(cell.file, metadata={"ssl-recall": about})
    assert ranks.stored(cell, 300) is None
