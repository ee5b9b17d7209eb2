"""compute-popularity, from a prepared run folder to popularity.parquet."""

import hashlib
import math
from pathlib import Path

import polars as pl
import pytest

from stages.terminal.errors import ArtifactError

from ..jobs import compute_popularity


def test_every_item_of_the_catalogue_gets_its_share(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compute_popularity(catalogue)
    found = pl.read_parquet(catalogue / "popularity.parquet")

    assert found.select("item_id", "count").rows() == [("a", 3), ("b", 1), ("c", 0), ("d", 0), ("e", 2), ("f", 0)]
    assert found["p"].sum() == pytest.approx(1, abs=1e-9)
    assert found["log_p"][0] == pytest.approx(math.log(3 / 6.03))
    output = capsys.readouterr()
    assert "6 items, 3 never taken, 6 interactions" in output.err
    assert not output.out


def test_a_second_run_does_nothing_and_a_forced_one_writes_the_same_bytes(
    catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compute_popularity(catalogue)
    before = (catalogue / "popularity.parquet").stat().st_ino, digest(catalogue)
    capsys.readouterr()
    compute_popularity(catalogue)
    assert "up to date" in capsys.readouterr().err
    assert (catalogue / "popularity.parquet").stat().st_ino == before[0]

    compute_popularity(catalogue, force=True)
    assert digest(catalogue) == before[1]


def test_another_unseen_count_is_another_file(catalogue: Path) -> None:
    compute_popularity(catalogue)
    before = digest(catalogue)
    compute_popularity(catalogue, unseen_count=0.5)
    assert digest(catalogue) != before


def test_a_changed_log_is_refused_and_the_old_file_stays(catalogue: Path) -> None:
    compute_popularity(catalogue)
    before = digest(catalogue)
    train = pl.read_parquet(catalogue / "train.parquet")
    train.head(3).write_parquet(catalogue / "train.parquet")
    with pytest.raises(ArtifactError, match=r"train\.parquet: not what its stage wrote .* run: ssl-recall prepare"):
        compute_popularity(catalogue)
    assert digest(catalogue) == before


def digest(run: Path) -> str:
    return hashlib.sha256((run / "popularity.parquet").read_bytes()).hexdigest()
