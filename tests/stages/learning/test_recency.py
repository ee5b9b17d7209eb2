"""Half-life and window: from `compute-popularity` through the manifest to the draws of training."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner, Result

from stages import cli
from stages.learning import model_files, recency
from stages.learning.fit import Fit
from stages.learning.popularity_settings import PopularitySettings, recorded_popularity
from stages.learning.settings import TrainSettings
from stages.learning.training_inputs import TRAINING_READS, load_training_inputs
from stages.run_folder import reader
from stages.terminal.errors import InputError, SettingsError

from .test_fit import end, same, stopped

SETTINGS = TrainSettings(
    ssl=False, batch_size=16, further_negatives=16, epochs=3, validation_queries=100, embedding_width=8, hidden=[8],
    width=8, device="cpu",
)  # fmt: skip
BY_AGE = ("--half-life", "5", "--window", "14")


def call(*flags: str) -> Result:
    return CliRunner().invoke(cli.app, flags)


def done(*flags: str) -> str:
    result = call(*flags)
    assert result.exit_code == 0, result.output
    return result.stderr


def popularity(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "run" / "popularity.parquet")


def slow_weights(folder: Path) -> list[float]:
    """Weigh every training interaction by BY_AGE, in Python."""
    times = pl.read_parquet(folder / "run" / "train.parquet")["timestamp"].to_list()
    ages = [(max(times) - time) / 86_400 for time in times]
    return [0.5 ** (age / 5) if age <= 14 else 0.0 for age in ages]


def loaded(folder: Path, settings: TrainSettings = SETTINGS, weighted: PopularitySettings | None = None) -> Any:
    with reader.reading(folder / "run", TRAINING_READS) as job:
        return load_training_inputs(job, settings, weighted=weighted)[0]


# --- p ---


def test_p_is_the_share_of_the_weights_and_the_count_stays(dated_shop: Path) -> None:
    before = popularity(dated_shop)
    said = done("compute-popularity", *BY_AGE)
    found, weights = popularity(dated_shop), slow_weights(dated_shop)
    items = pl.read_parquet(dated_shop / "run" / "train.parquet")["item_index"].to_list()
    sums = [math.fsum(w for item, w in zip(items, weights, strict=True) if item == n) for n in range(60)]
    effective = [max(one, 0.01) for one in sums]
    assert found["count"].equals(before["count"])
    assert found["p"].to_list() == pytest.approx([one / math.fsum(effective) for one in effective], rel=1e-12)
    assert found["log_p"].to_list() == pytest.approx(np.log(found["p"].to_numpy()).tolist())
    assert not found["p"].equals(before["p"])
    light = sum(count > 0 and one < 0.01 for count, one in zip(found["count"], sums, strict=True))
    assert light
    assert f"of weight {math.fsum(sums):.1f}, {light} items taken weigh less than --unseen-count" in said


@pytest.mark.parametrize(
    "unit",
    [
        pl.col("timestamp") * 1000,
        pl.col("timestamp") * 10**6,
        pl.col("timestamp") * 10**9,
        pl.from_epoch("timestamp"),
        pl.from_epoch("timestamp").dt.cast_time_unit("ms"),
        pl.from_epoch("timestamp").dt.replace_time_zone("Europe/Vienna"),
        pl.from_epoch("timestamp").dt.date(),
    ],
    ids=["ms", "us", "ns", "datetime-us", "datetime-ms", "zone", "date"],
)
def test_the_unit_of_the_times_changes_nothing(dated_shop: Path, unit: pl.Expr) -> None:
    done("compute-popularity", *BY_AGE)
    expected, weights = popularity(dated_shop), loaded(dated_shop).weights
    log = dated_shop / "log.parquet"
    pl.read_parquet(log).with_columns(unit.alias("timestamp")).write_parquet(log)
    done("prepare")
    done("compute-popularity", *BY_AGE)
    assert popularity(dated_shop).equals(expected)
    assert torch.equal(loaded(dated_shop).weights, weights)


def test_a_window_beyond_the_log_is_off_bit_for_bit(dated_shop: Path) -> None:
    plain, log_q = popularity(dated_shop), loaded(dated_shop).log_q
    done("compute-popularity", "--window", "1e9")
    assert popularity(dated_shop).equals(plain)
    data = loaded(dated_shop)
    assert torch.equal(data.log_q, log_q)
    assert torch.equal(data.weights, torch.ones(len(data.log.items), dtype=torch.float64))


# --- settings ---


def test_only_used_settings_are_recorded(dated_shop: Path) -> None:
    assert recorded_popularity(PopularitySettings()) == {"unseen_count": 0.01}
    assert recorded_popularity(PopularitySettings(half_life=2.0)) == {"unseen_count": 0.01, "half_life": 2.0}
    done("compute-popularity", "--window", "2")
    manifest = json.loads((dated_shop / "run" / "manifest.json").read_text())
    assert manifest["stages"]["compute-popularity"]["settings"] == {"unseen_count": 0.01, "window": 2.0}
    with reader.reading(dated_shop / "run", TRAINING_READS) as job:
        assert recency.settings_of(job) == PopularitySettings(window=2.0)
        assert recency.settings_of(job, {"half_life": 3.0}) == PopularitySettings(half_life=3.0, window=2.0)


@pytest.mark.parametrize("setting", ["half_life", "window"])
def test_a_log_without_times_refuses_both_settings_at_run_before_any_work(shop: Path, setting: str) -> None:
    text = (shop / "ssl-recall.toml").read_text().replace('timestamp = "timestamp"\n', "")
    (shop / "ssl-recall.toml").write_text(f"{text}\n[compute_popularity]\n{setting} = 30\n")
    result = call("run", "--run", "elsewhere")
    assert isinstance(result.exception, SettingsError)
    assert str(result.exception).startswith(f"NO_TIME: [compute_popularity] {setting} needs times: give timestamp")
    assert not (shop / "elsewhere").exists()
    done("prepare")
    before = popularity(shop)
    result = call("compute-popularity")
    assert isinstance(result.exception, SettingsError)
    assert "NO_TIME" in str(result.exception)
    assert popularity(shop).equals(before)


@pytest.mark.parametrize("wrong", ["nan", "inf", "0", "-1"])
@pytest.mark.parametrize("setting", ["half_life", "window"])
def test_days_that_are_no_number_above_0_are_refused(shop: Path, setting: str, wrong: str) -> None:
    assert call("compute-popularity", f"--{setting.replace('_', '-')}", wrong).exit_code == 2
    with (shop / "ssl-recall.toml").open("a") as file:
        file.write(f"\n[compute_popularity]\n{setting} = {wrong}\n")
    result = call("run")
    assert result.exit_code == 2
    assert setting.replace("_", "-") in result.stderr


def test_times_that_only_order_the_rows_have_no_unit(shop: Path) -> None:
    result = call("compute-popularity", "--half-life", "30")
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith("TIME: train.parquet: timestamp has no unit, it only orders the rows")
    with reader.reading(shop / "run", TRAINING_READS) as job:
        assert recency.half_lives(job) == {}


# --- training ---


@pytest.mark.parametrize("history", [0, 3])
def test_training_weighs_each_row_of_its_log_as_compute_popularity_does(dated_shop: Path, history: int) -> None:
    done("compute-popularity", *BY_AGE)
    data = loaded(dated_shop, replace(SETTINGS, history=history))
    train = pl.read_parquet(dated_shop / "run" / "train.parquet")
    assert data.weights.tolist() == pytest.approx(slow_weights(dated_shop), rel=1e-12)
    assert data.log.items.tolist() == train["item_index"].to_list()
    assert data.log.queries.tolist() == train["query_index"].to_list()
    assert data.rows_per_epoch == int(math.fsum(slow_weights(dated_shop)))
    with reader.reading(dated_shop / "run", TRAINING_READS) as job:
        assert recency.rows_per_epoch(job) == data.rows_per_epoch
    assert (
        data.negatives.warm.tolist()
        == popularity(dated_shop).with_row_index().filter(pl.col("count") > 0)["index"].to_list()
    )  # raw counts


def test_other_settings_in_memory_are_those_of_a_run_folder_bit_for_bit(dated_shop: Path) -> None:
    own = PopularitySettings(half_life=5.0, window=14.0)
    in_memory = loaded(dated_shop, weighted=own)
    done("compute-popularity", *BY_AGE)
    stored = loaded(dated_shop)
    assert torch.equal(in_memory.log_q, stored.log_q)
    assert torch.equal(in_memory.weights, stored.weights)
    off = loaded(dated_shop, weighted=PopularitySettings())
    done("compute-popularity")
    assert off.weights is None
    assert torch.equal(off.log_q, loaded(dated_shop).log_q)


def test_too_few_rows_are_refused(dated_shop: Path) -> None:
    done("compute-popularity", "--half-life", "0.00001")
    train = pl.read_parquet(dated_shop / "run" / "train.parquet")
    newest = train.filter(pl.col("timestamp") == train["timestamp"].max()).height
    assert loaded(dated_shop).rows_per_epoch == newest
    log = pl.read_parquet(dated_shop / "log.parquet").with_row_index("row")
    log = log.with_columns(timestamp=pl.col("timestamp") + pl.col("row")).drop("row")  # no two at once
    log.write_parquet(dated_shop / "log.parquet")
    done("prepare")
    done("compute-popularity", "--half-life", "0.000001")
    with pytest.raises(InputError, match=r"1 interactions an epoch, by half_life and window of compute-popularity"):
        loaded(dated_shop)


@pytest.fixture
def fresh(dated_shop: Path) -> Callable[..., Fit]:
    """Return a function that makes trainings with weights."""
    done("compute-popularity", *BY_AGE)
    with reader.reading(dated_shop / "run", TRAINING_READS) as job:
        data, held_out = load_training_inputs(job, SETTINGS)
        features = job.read("features.parquet")

    def made() -> Fit:
        model = model_files.build(data.items, data.queries, features, SETTINGS.shape)
        return Fit(model, data, held_out, SETTINGS, torch.device("cpu"), bf16=False)

    return made


def test_a_training_with_weights_that_is_stopped_anywhere_ends_as_if_it_had_not_been(fresh: Callable[[], Fit]) -> None:
    whole = fresh()
    expected = end(whole)
    steps = whole.planner.rows // 16
    assert [row["steps"] for row in whole.curve] == [steps] * 3
    assert steps < len(whole.log.items) // 16
    for after in range(1, 3 * steps + 1):
        fit = fresh()
        fit.restore(*stopped(fresh(), after))
        assert fit.steps_taken == after
        assert same(end(fit), expected)


def test_run_trains_on_what_the_settings_file_weighs_and_a_changed_half_life_makes_it_stale(dated_shop: Path) -> None:
    table = "\n[compute_popularity]\nhalf_life = 10.0\n"
    with (dated_shop / "ssl-recall.toml").open("a") as file:
        file.write(table)
    done("run")
    rows = int(math.fsum(0.5 ** (age / 864_000) for age in ages_of(dated_shop)))
    steps = pl.read_parquet(dated_shop / "run" / "training.parquet")["steps"].to_list()
    assert steps == [rows // 32, 2 * (rows // 32)]
    assert rows // 32 < len(ages_of(dated_shop)) // 32
    assert done("run").count("up to date") == 10
    text = (dated_shop / "ssl-recall.toml").read_text()
    (dated_shop / "ssl-recall.toml").write_text(text.replace(table, table.replace("10.0", "20.0")))
    said = done("run")
    assert "half_life was 10.0, now 20.0" in said
    assert "popularity.parquet changed" in said
    (dated_shop / "ssl-recall.toml").write_text(text.replace(table, ""))
    assert "half_life was 20.0, now not there" in done("run")


def ages_of(folder: Path) -> list[int]:
    times = pl.read_parquet(folder / "run" / "train.parquet")["timestamp"]
    return [int(times.max()) - int(time) for time in times]  # type: ignore[arg-type]


def test_the_warning_of_few_steps_counts_the_rows_of_an_epoch(dated_shop: Path) -> None:
    done("compute-popularity", *BY_AGE)
    done("build-views")
    rows = int(math.fsum(slow_weights(dated_shop)))
    assert f"{rows} interactions are {rows // 32} step" in done("train")


# --- tune ---


def test_tune_tries_half_lives_in_shares_of_the_logs_time(dated_shop: Path) -> None:
    train = pl.read_parquet(dated_shop / "run" / "train.parquet")["timestamp"]
    span = (train.max() - train.min()) / 86_400  # type: ignore[operator]
    with reader.reading(dated_shop / "run", TRAINING_READS) as job:
        found = recency.half_lives(job)
        assert list(found) == [float(f"{span * share:.4g}") for share in (1 / 64, 1 / 16, 1 / 4)]
        assert found == {days: recency.rows_per_epoch(job, PopularitySettings(half_life=days)) for days in found}


def tuned(folder: Path) -> list[Any]:
    frame = pl.read_parquet(folder / "run" / "tuning.parquet").sort("trial")
    return [json.loads(settings) for settings in frame["settings"]]


def test_tune_searches_the_half_life_where_there_is_a_clock_and_ablate_takes_it(dated_shop: Path) -> None:
    text = (dated_shop / "ssl-recall.toml").read_text().replace("batch_size = 32", "batch_size = 2", 1)
    (dated_shop / "ssl-recall.toml").write_text(text)
    done("compute-popularity", "--half-life", "9")
    done("tune", "--arm", "no-ssl", "--trials", "4")
    settings = tuned(dated_shop)
    assert settings[0]["half_life"] == 9.0  # of the manifest
    assert {one["half_life"] for one in settings} - {9.0}
    choices = {None, 9.0}
    with reader.reading(dated_shop / "run", TRAINING_READS) as job:
        choices |= recency.half_lives(job).keys()
    assert {one["half_life"] for one in settings} <= choices
    done("ablate", "--arm", "no-ssl", "--seeds", "1", "--k", "3")
    (path,) = (dated_shop / "run" / "ablation").glob("no-ssl-1-*.parquet")
    best = pl.read_parquet(dated_shop / "run" / "tuning.parquet").filter("best")["settings"][0]
    told = json.loads(pl.read_parquet_metadata(path)["ssl-recall"])
    assert told["popularity"] == {"half_life": json.loads(best)["half_life"]}


def test_tune_leaves_the_half_life_alone_where_times_only_order_the_rows(shop: Path) -> None:
    done("tune", "--arm", "no-ssl", "--trials", "1")
    assert "half_life" not in tuned(shop)[0]
