"""compute-mi, from a prepared run folder to mutual_information.parquet and the table on stdout."""

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path

import polars as pl
import pytest
from sklearn.metrics import mutual_info_score

from stages.compute_mi import IdRole, compute_mi

NAMES = ["colour", "shade", "tags", "size", "picture", "licence"]


def matrix_of(run: Path) -> dict[tuple[str, str], dict[str, float]]:
    rows = pl.read_parquet(run / "mutual_information.parquet").rows(named=True)
    return {(row["feature_a"], row["feature_b"]): row for row in rows}


def test_every_ordered_pair_is_there_with_the_numbers_of_the_formula(catalogue: Path) -> None:
    compute_mi(catalogue)
    found = matrix_of(catalogue)

    assert list(found) == [(a, b) for a in NAMES for b in NAMES]
    items = pl.read_parquet(catalogue / "items.parquet")
    single = [name for name in NAMES if name != "tags"]
    for a, b in combinations_with_replacement(single, 2):
        expected = mutual_info_score(items[f"{a}__code"], items[f"{b}__code"])
        assert found[a, b]["mi"] == pytest.approx(expected, abs=1e-12)
        assert found[b, a]["mi"] == found[a, b]["mi"]
    for row in found.values():
        assert row["mi_corrected"] == row["mi"] - row["mi_chance"]
        assert row["mi"] <= min(row["entropy_a"], row["entropy_b"]) + 1e-12
    assert found["tags", "size"]["values_a"] == 5  # x, y, z, unknown and missing
    assert found["size", "size"]["entropy_a"] == pytest.approx(math.log(6) - (2 * math.log(2) + 3 * math.log(3)) / 6)


def test_the_heat_table_and_the_warnings_name_the_features(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compute_mi(catalogue)
    output = capsys.readouterr()

    assert output.out.splitlines()[1].split() == ["1", "2", "3", "4", "5", "6"]
    assert output.out.splitlines()[2].split()[:4] == ["1", "colour", "·", "100"]
    assert "feature licence has one value in the whole catalogue" in output.err
    assert "features colour and shade say the same" in output.err
    assert "6 items, 6 features, 21 pairs" in output.err


def test_the_id_takes_part_when_asked_says_the_entropy_and_nothing_above_chance(catalogue: Path) -> None:
    compute_mi(catalogue, id=IdRole.INCLUDE)
    found = matrix_of(catalogue)

    assert len(found) == 49
    row = found["item_id", "colour"]
    assert row["values_a"] == 6
    assert row["mi"] == pytest.approx(row["entropy_b"])
    assert row["mi_normalised"] == 0.0


def test_the_seed_moves_the_chance_level_only(catalogue: Path) -> None:
    compute_mi(catalogue, seed=1)
    one = pl.read_parquet(catalogue / "mutual_information.parquet")
    compute_mi(catalogue, seed=2)
    other = pl.read_parquet(catalogue / "mutual_information.parquet")

    assert one["mi"].equals(other["mi"])
    assert not one["mi_chance"].equals(other["mi_chance"])


def test_many_features_are_listed_by_their_strongest_pairs(
    catalogue: Path, prepared_again: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    items, features = (pl.read_parquet(catalogue / f"{name}.parquet") for name in ("items", "features"))
    more = [f"more{number:02}" for number in range(17)]
    codes = {f"{name}__code": pl.col("size__code") if name < "more02" else pl.lit(2, pl.Int32) for name in more}
    rows = [features.filter(pl.col("feature") == "colour").with_columns(feature=pl.lit(name)) for name in more]
    prepared_again(catalogue, items=items.with_columns(**codes), features=pl.concat([features, *rows]))
    compute_mi(catalogue)

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 20
    assert ["more00", "more01", "100"] in [line.split() for line in lines]


def test_a_catalogue_with_nothing_but_the_id_has_no_pairs(catalogue: Path, prepared_again: Callable[..., None]) -> None:
    prepared_again(catalogue, features=pl.read_parquet(catalogue / "features.parquet").head(1))
    compute_mi(catalogue)
    assert pl.read_parquet(catalogue / "mutual_information.parquet").shape == (0, 10)
