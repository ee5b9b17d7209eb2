"""init writes its guesses into a settings file that runs."""

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from stages.cli import app
from stages.learning import view_settings
from stages.learning.short_logs import largest_batch
from stages.learning.suited_settings import for_a_log
from stages.terminal.errors import SettingsError

from ...jobs import init

HOSTILE = ['say "hi"', "two\nlines", "naïve £", "[/]", "a.b", "tab\there", "x=y"]


def write(folder: Path, *, users: bool = False, csv: bool = False) -> dict[str, Path]:
    rng = np.random.default_rng(3)
    items = pl.DataFrame(
        {
            "movieId": [f"m{n:03}" for n in range(150)],
            "title": [f"Title number {n}" for n in range(150)],
            "genres": [["a", "b"][: n % 3] for n in range(150)],
            "year": [1900 + n % 90 for n in range(150)],
            "votes": list(range(1000, 1150)),
            "score": rng.random(150),
            "adult": [n % 2 == 0 for n in range(150)],
            "always": ["same"] * 150,
            "image": pl.Series(rng.random((150, 3)), dtype=pl.Array(pl.Float32, 3)),
        }
    )
    log = pl.DataFrame(
        {
            "userId": [n % 30 for n in range(900)],
            "movieId": [f"m{n:03}" for n in rng.integers(0, 150, 900)],
            "rating": (rng.integers(1, 11, 900) / 2).tolist(),
            "watched_at": [date(2024, 1, 1 + n % 28) for n in range(900)],
        }
    )
    tables = {"items": items, "interactions": log}
    if users:
        tables["queries"] = pl.DataFrame({"userId": range(30), "age": [20 + n % 5 for n in range(30)]})
    folder.mkdir(exist_ok=True)
    paths = {}
    for name, frame in tables.items():
        paths[name] = folder / f"{name}.{'csv' if csv else 'parquet'}"
        if csv:
            joined = frame.with_columns(pl.col(pl.List(pl.String)).list.join("|")).drop("image", strict=False)
            joined.write_csv(paths[name])
        else:
            frame.write_parquet(paths[name])
    return paths


def settings_of(folder: Path, **options: bool) -> dict[str, Any]:
    init(**write(folder, **options), output=folder / "settings.toml")
    return tomllib.loads((folder / "settings.toml").read_text())


def test_every_guess_is_a_line_of_the_file(tmp_path: Path) -> None:
    found = settings_of(tmp_path, users=True)["prepare"]
    assert (found["query_id"], found["item_id"]) == ("userId", "movieId")
    assert (found["timestamp"], found["weight"]) == ("watched_at", "rating")
    assert found["queries_are_items"] is False
    assert found["item_features"] == {
        "title": "exclude",
        "genres": "multi-valued",
        "year": "categorical",
        "votes": "numeric",
        "score": "numeric",
        "adult": "categorical",
        "always": "exclude",
        "image": "dense",
    }
    assert found["query_features"] == {"age": "categorical"}
    assert "min_weight" not in found
    assert "# min_weight = " in (tmp_path / "settings.toml").read_text()


def test_a_list_in_a_csv_file_is_known_by_its_separator(tmp_path: Path) -> None:
    assert settings_of(tmp_path, csv=True)["prepare"]["item_features"]["genres"] == "multi-valued,separator=|"


def test_the_file_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_of(tmp_path, users=True)
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "settings.toml").open("a") as file:
        file.write("\n")
    text = (
        (tmp_path / "settings.toml")
        .read_text()
        .replace("\nepochs = 20", "\nepochs = 1")
        .replace("# k = [10, 50, 100]", "k = [5]")
    )
    (tmp_path / "settings.toml").write_text(text)
    done = CliRunner().invoke(app, ["run", "--config", "settings.toml", "--run", "out"], catch_exceptions=False)
    assert done.exit_code == 0
    assert pl.read_parquet(tmp_path / "out" / "training.parquet").height == 1
    assert set(pl.read_parquet(tmp_path / "out" / "metrics.parquet")["k"]) == {5}


def test_items_as_queries_are_told_from_people(tmp_path: Path) -> None:
    paths = write(tmp_path)
    pl.DataFrame({"seed_item": ["m001", "m002"] * 9, "movieId": ["m003", "m004"] * 9}).write_parquet(
        paths["interactions"]
    )
    init(**paths, output=tmp_path / "settings.toml")
    assert tomllib.loads((tmp_path / "settings.toml").read_text())["prepare"]["queries_are_items"] is True


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    paths = write(tmp_path)
    items = pl.read_parquet(paths["items"])
    values = [f"value {n % 4}" for n in range(items.height)]
    items.with_columns(pl.Series(name, values) for name in HOSTILE).write_parquet(paths["items"])
    init(**paths, output=tmp_path / "settings.toml")
    found = tomllib.loads((tmp_path / "settings.toml").read_text())["prepare"]["item_features"]
    assert {name: found[name] for name in HOSTILE} == dict.fromkeys(HOSTILE, "categorical")


def test_missing_times_are_set_aside_in_plain_sight(tmp_path: Path) -> None:
    paths = write(tmp_path)
    log = pl.read_parquet(paths["interactions"])
    log.with_columns(pl.when(pl.int_range(pl.len()) > 99).then("watched_at")).write_parquet(paths["interactions"])
    init(**paths, output=tmp_path / "settings.toml")
    assert tomllib.loads((tmp_path / "settings.toml").read_text())["prepare"]["null_timestamp"] == "quarantine"
    assert "100 of 900 rows have no time" in (tmp_path / "settings.toml").read_text()


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    paths = write(tmp_path)
    (tmp_path / "settings.toml").write_text("mine")
    with pytest.raises(SettingsError, match="exists; give another --output, or --force"):
        init(**paths, output=tmp_path / "settings.toml")
    assert (tmp_path / "settings.toml").read_text() == "mine"
    init(**paths, output=tmp_path / "settings.toml", force=True)
    assert (tmp_path / "settings.toml").read_text() != "mine"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    paths = write(tmp_path)
    with pytest.raises(SettingsError, match=r"--items .*nowhere\.parquet: no Parquet or CSV file there"):
        init(paths["interactions"], tmp_path / "nowhere.parquet", output=tmp_path / "settings.toml")
    assert not (tmp_path / "settings.toml").exists()


def test_tables_without_a_common_column_are_refused(tmp_path: Path) -> None:
    paths = write(tmp_path)
    items = pl.read_parquet(paths["items"]).rename({"movieId": "code"})
    items.with_columns(pl.col("code") + "-x").write_parquet(paths["items"])
    with pytest.raises(SettingsError, match=r"no column holds the ids that --interactions names \(items: code, "):
        init(**paths, output=tmp_path / "settings.toml")


def test_ids_of_another_name_in_the_catalogue_are_written_down_and_prepare_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path)
    pl.read_parquet(paths["items"]).rename({"movieId": "Nr. €"}).write_parquet(paths["items"])
    monkeypatch.chdir(tmp_path)
    init(**paths, output=tmp_path / "ssl-recall.toml")
    settings = tomllib.loads((tmp_path / "ssl-recall.toml").read_text())
    assert (settings["prepare"]["item_id"], settings["prepare"]["items_id"]) == ("movieId", "Nr. €")
    done = CliRunner().invoke(app, ["prepare"], catch_exceptions=False)
    assert done.exit_code == 0
    written = pl.read_parquet(tmp_path / settings["run"] / "items.parquet")
    assert written["item_id"].to_list() == sorted(pl.read_parquet(paths["items"])["Nr. €"])
    assert "Nr. €" not in written.columns


def test_ids_that_are_missing_are_said_where_the_column_is_named(tmp_path: Path) -> None:
    paths = write(tmp_path)
    log, items = (pl.read_parquet(paths[name]) for name in ("interactions", "items"))
    log.with_columns(pl.when(pl.int_range(pl.len()) > 2).then("userId")).write_parquet(paths["interactions"])
    items.with_columns(pl.when(pl.int_range(pl.len()) > 0).then("movieId")).write_parquet(paths["items"])
    init(**paths, output=tmp_path / "settings.toml")
    lines = (tmp_path / "settings.toml").read_text().splitlines()
    assert 'query_id = "userId"  # null in 3 of 900 rows: prepare refuses these, remove them' in lines
    assert any(line.startswith("items = ") and "null in 1 of 150 rows" in line for line in lines)


def test_ratings_without_a_threshold_are_warned_of(tmp_path: Path) -> None:
    init(**write(tmp_path), output=tmp_path / "settings.toml")
    text = (tmp_path / "settings.toml").read_text()
    assert 'weight = "rating"  # from 0.5 to 5.0; without min_weight a 0.5 is a positive' in text


def test_what_is_not_used_of_the_interactions_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write(tmp_path)
    pl.read_parquet(paths["interactions"]).rename({"rating": "Sterne (1-5)"}).write_parquet(paths["interactions"])
    init(**paths, output=tmp_path / "settings.toml")
    text = (tmp_path / "settings.toml").read_text()
    assert "\n# not used: Sterne (1-5); is one a time, or a rating?\n" in text
    assert "left out: Sterne (1-5) of the interactions, title, always (the file says why)" in capsys.readouterr().out


def test_defaults_that_depend_on_the_data_or_are_lists_stand_as_they_would_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, pairs in ((150, 32), (149, 8)):
        monkeypatch.setattr(view_settings, "MANY_ITEMS", limit)
        init(**write(tmp_path), output=tmp_path / "settings.toml", force=True)
        text = (tmp_path / "settings.toml").read_text()
        assert f"\n# variants = {pairs}  # " in text
        assert "\n# k = [10, 50, 100]  # " in text
        start = text.index("[compute_popularity]")  # from there on every comment is a default
        free = tomllib.loads(re.sub(r"(?m)^# (\w+) = ", r"\1 = ", text[start:]))
        assert (free["build_views"]["variants"], free["evaluate"]["k"]) == (pairs, [10, 50, 100])


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_file_may_be_cut_by_something_else_than_a_comma(tmp_path: Path, separator: str) -> None:
    paths = write(tmp_path, csv=True)
    init(**paths, output=tmp_path / "comma.toml")
    for path in paths.values():
        pl.read_csv(path).write_csv(path, separator=separator)
    init(**paths, output=tmp_path / "tab.toml")
    assert (tmp_path / "tab.toml").read_text().replace("tab.toml", "comma.toml") == (
        tmp_path / "comma.toml"
    ).read_text()


def test_swapped_tables_are_noticed(tmp_path: Path) -> None:
    paths = write(tmp_path)
    with pytest.raises(SettingsError, match=r"SWAPPED: .*are the two tables swapped\?"):
        init(paths["items"], paths["interactions"], output=tmp_path / "settings.toml")


def test_a_mistyped_path_is_answered_with_the_nearest(tmp_path: Path) -> None:
    paths = write(tmp_path)
    with pytest.raises(SettingsError, match=r"no Parquet or CSV file there; did you mean .*/items\.parquet\?"):
        init(paths["interactions"], tmp_path / "item.parquet", output=tmp_path / "settings.toml")
    with pytest.raises(SettingsError, match=r"no Parquet or CSV file there; there is no folder .*/nowhere"):
        init(paths["interactions"], tmp_path / "nowhere" / "items.parquet", output=tmp_path / "settings.toml")


def test_a_short_log_gets_a_batch_that_leaves_it_steps(tmp_path: Path) -> None:
    found = settings_of(tmp_path)["train"]
    assert found["batch_size"] == 32
    assert found["ssl_batch_size"] == pl.read_parquet(tmp_path / "items.parquet").height
    assert [largest_batch(rows) for rows in (0, 159, 5119, 5120, 21_825, 81_919, 81_920)] == [
        32,
        32,
        32,
        64,
        256,
        512,
        1024,
    ]
    long = pl.concat([pl.read_parquet(tmp_path / "interactions.parquet")] * 100)
    long.write_parquet(tmp_path / "interactions.parquet")
    init(tmp_path / "interactions.parquet", tmp_path / "items.parquet", output=tmp_path / "long.toml")
    assert "batch_size" not in tomllib.loads((tmp_path / "long.toml").read_text())["train"]
    assert "\n# batch_size = 1024  #" in (tmp_path / "long.toml").read_text()


def test_a_log_that_is_short_for_its_catalogue_gets_a_softer_softmax_and_less_self_supervision(tmp_path: Path) -> None:
    assert for_a_log(21_825, 63_436, queries_are_items=True).keys() == {"batch_size", "temperature", "ssl_weight"}
    assert for_a_log(21_825, 21_825, queries_are_items=True).keys() == {"batch_size"}
    assert for_a_log(10**6, 10**6, queries_are_items=True) == {}
    assert for_a_log(10**6, 1023, queries_are_items=True)["ssl_batch_size"][0] == 1023
    assert for_a_log(10**6, 1024, queries_are_items=True) == {}
    paths = write(tmp_path)
    few = pl.read_parquet(paths["interactions"]).head(1)
    few.write_parquet(paths["interactions"])
    init(paths["interactions"], paths["items"], output=tmp_path / "short.toml")
    found = tomllib.loads((tmp_path / "short.toml").read_text())["train"]
    items = pl.read_parquet(paths["items"]).height
    assert found["ssl_batch_size"] == items
    assert (found["batch_size"], found["temperature"], found["ssl_weight"]) == (32, 0.1, 0.03)


def test_a_user_is_described_by_what_he_took_and_the_file_says_so(tmp_path: Path) -> None:
    found, text = settings_of(tmp_path)["train"], (tmp_path / "settings.toml").read_text()
    assert (found["history"], found["temperature"], found["width"]) == (20, 0.1, 128)
    assert re.search(r"^history = 20  # .* Queries are users: a user is what he took\.$", text, re.MULTILINE)
    items = for_a_log(10**6, 10**5, queries_are_items=True)
    users = for_a_log(10**6, 10**5, queries_are_items=False)
    assert "history" not in items
    assert "embedding_width" not in users  # of so many items wide vectors cost too much
    assert for_a_log(10**6, 10**4, queries_are_items=False)["embedding_width"][0] == 128
    assert "ssl_warmup_steps" not in users
    assert for_a_log(93_000, 10**4, queries_are_items=False)["ssl_warmup_steps"][0] == 180
