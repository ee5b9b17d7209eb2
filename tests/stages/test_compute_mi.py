"""compute-mi, from a prepared run folder to mutual_information.parquet and the table on stdout."""

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sklearn.metrics import mutual_info_score

from ssl_recall import mutual_information
from stages.compute_mi import IdRole

from ..jobs import compute_mi

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
    assert pl.read_parquet(catalogue / "mutual_information.parquet").shape == (0, 12)


def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return a list that collects every pair measured from now on."""
    pairs: list[tuple[str, str]] = []
    plain = mutual_information.pair_information

    def watched(codes: Any, todo: Any, **settings: Any) -> Any:
        pairs.extend(todo)
        return plain(codes, todo, **settings)

    monkeypatch.setattr(mutual_information, "pair_information", watched)
    return pairs


def test_a_new_feature_costs_its_own_pairs_and_no_other(
    catalogue: Path, prepared_again: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    items, features = (pl.read_parquet(catalogue / f"{name}.parquet") for name in ("items", "features"))
    compute_mi(catalogue)
    more = items.with_columns(weight=pl.Series(range(6)), weight__code=pl.Series([2, 3, 2, 3, 4, 4], dtype=pl.Int32))
    described = pl.concat([features, features.filter(feature="size").with_columns(feature=pl.lit("weight"))])
    prepared_again(catalogue, items=more, features=described)
    pairs = measured(monkeypatch)
    compute_mi(catalogue)
    assert {frozenset(pair) for pair in pairs} == {frozenset((name, "weight")) for name in [*NAMES, "weight"]}
    assert len(pairs) == 7
    kept = (catalogue / "mutual_information.parquet").read_bytes()
    compute_mi(catalogue, force=True)
    assert len(pairs) == 7 + 28
    assert (catalogue / "mutual_information.parquet").read_bytes() == kept


def test_a_feature_that_has_changed_is_measured_again_and_a_setting_measures_all(
    catalogue: Path, prepared_again: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_mi(catalogue)
    items = pl.read_parquet(catalogue / "items.parquet")
    prepared_again(catalogue, items=items.with_columns(size__code=pl.Series([2, 3, 0, 3, 3, 3], dtype=pl.Int32)))
    pairs = measured(monkeypatch)
    compute_mi(catalogue)
    assert {frozenset(pair) for pair in pairs} == {frozenset((name, "size")) for name in NAMES}
    compute_mi(catalogue, seed=2)
    assert len(pairs) == 6 + 21
    (catalogue / "mutual_information.parquet").write_bytes(b"flipped")
    compute_mi(catalogue, seed=2)
    assert len(pairs) == 6 + 21 + 21


def test_the_number_of_buckets_changes_no_result_and_makes_nothing_stale(
    catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compute_mi(catalogue)
    before = (catalogue / "mutual_information.parquet").read_bytes()
    compute_mi(catalogue, buckets=3)
    assert "up to date" in capsys.readouterr().err
    compute_mi(catalogue, buckets=3, force=True)
    assert (catalogue / "mutual_information.parquet").read_bytes() == before
