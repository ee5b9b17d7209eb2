"""A later stage works on the run folder, and warns if the tables behind it have changed."""

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.run_folder import manifest, source_changes

from ...jobs import compute_popularity

SAID = "changed since prepare; to prepare again run: ssl-recall run --run run"


def told(capsys: pytest.CaptureFixture[str]) -> str:
    compute_popularity(Path("run"))
    return capsys.readouterr().err


def test_a_table_that_has_changed_is_named_and_one_that_was_only_touched_is_not(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SAID not in told(capsys)
    log = shop / "log.parquet"
    os.utime(log, (1, 1))
    assert SAID not in told(capsys)
    pl.read_parquet(log).head(200).write_parquet(log)
    said = told(capsys)
    assert f"warning: log.parquet: {SAID}" in said
    assert "up to date" in said


def test_nothing_is_read_where_size_and_time_are_the_same(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_changes, "_hashes", lambda *_: pytest.fail("a table was read"))
    assert source_changes.changed(manifest.read(Path("run"))) == []


def test_a_file_more_in_a_folder_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a")
    entry = {"tables": source_changes.note({"interactions": tmp_path}), "inputs": {"interactions[0]": "of a"}}
    assert source_changes.changed({"stages": {"prepare": entry}}) == []
    (tmp_path / "b.csv").write_bytes(b"b")
    assert source_changes.changed({"stages": {"prepare": entry}}) == [str(tmp_path)]
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).unlink()
    assert source_changes.changed({"stages": {"prepare": entry}}) == []


@pytest.mark.parametrize("tables", [None, [], {"items": 1}, {"items": {}}, {"items": {"path": "p\0", "files": 0}}])
def test_a_manifest_that_says_something_else_changes_nothing(tables: Any) -> None:
    assert source_changes.changed({"stages": {"prepare": {"tables": tables, "inputs": {}}}}) == []
