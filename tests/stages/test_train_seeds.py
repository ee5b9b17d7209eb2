"""train-seeds: it trains both published models with other seeds, once each, and evaluate averages their figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from stages import cli, train
from stages.run_folder import manifest

COLUMNS = ["query_index", "item_index", "rank"]


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def train_and_export(*models: str) -> None:
    call("build-views")
    for model in models:
        call("train", model)
        call("export-embeddings", model)


@pytest.fixture
def trained(shop: Path) -> Path:
    """Publish the vectors of both models."""
    train_and_export("--ssl", "--no-ssl")
    return shop / "run"


def figures(run: Path) -> dict[tuple[str, str, str, int], dict[str, Any]]:
    frame = pl.read_parquet(run / "metrics.parquet")
    return {(r["model"], r["slice"], r["metric"], r["k"]): r for r in frame.iter_rows(named=True)}


def with_minutes(run: Path, minutes: int | None) -> None:
    told = manifest.read(run)
    told["stages"]["train"] |= {"minutes": minutes}
    if minutes is None:
        del told["stages"]["train"]["minutes"]
    (run / "manifest.json").write_bytes(manifest.sealed(told))


def test_the_figures_are_means_over_the_published_seed_and_the_further_ones(trained: Path) -> None:
    said = call("train-seeds").stderr
    assert "3 seeds, because a training takes less than a minute; to choose run: ssl-recall run --seeds N" in said
    shown = json.loads(call("evaluate", "--k", "8", "--baselines", "none", "--json").stdout)
    assert shown == pl.read_parquet(trained / "metrics.parquet").to_dicts()
    seeds, found = pl.read_parquet(trained / "seeds.parquet"), figures(trained)
    test = pl.read_parquet(trained / "test.parquet").sort("query_index", "item_index")
    known = pl.concat([pl.read_parquet(trained / f"{name}.parquet") for name in ("train", "validation")])
    taken = {row: set(own["item_index"]) for (row,), own in known.group_by("query_index")}
    recall: dict[str, list[float]] = {}
    for model, part in (("ssl", ""), ("no-ssl", "no-ssl/")):
        items, queries = (
            pl.read_parquet(trained / f"{part}{side}_embeddings.parquet")["embedding"].to_numpy()
            for side in ("item", "query")
        )
        hits = [
            item in [i for i in np.argsort(-items @ queries[row], kind="stable") if i not in taken[row]][:8]
            for row, item in test.select("query_index", "item_index").iter_rows()
        ]
        recall[model] = [float(np.mean(hits))]
        for seed in (2, 3):
            own = seeds.filter(model=model, seed=seed)
            assert own.select("query_index", "item_index").equals(test.select("query_index", "item_index"))
            recall[model].append(float((own["rank"].fill_null(10**6) <= 8).mean()))  # type: ignore[arg-type]
        assert found[model, "all", "recall", 8]["value"] == pytest.approx(np.mean(recall[model]))
    row = found["ssl - no-ssl", "all", "recall", 8]
    assert row["value"] == pytest.approx(np.mean(recall["ssl"]) - np.mean(recall["no-ssl"]))
    assert (row["seeds"], found["most-popular", "all", "recall", 8]["seeds"]) == (3, 0)
    assert found["ssl", "all", "coverage", 8]["seeds"] == 1


def test_a_further_seed_has_the_ranks_that_ablate_finds_for_it(trained: Path) -> None:
    call("train-seeds", "--seeds", "2")
    call("ablate", "--arm", "ssl", "--seeds", "2", "--k", "3")
    for model in ("ssl", "no-ssl"):
        (path,) = (trained / "ablation").glob(f"{model}-2-*.parquet")
        own = pl.read_parquet(trained / "seeds.parquet").filter(model=model)
        assert own.select(COLUMNS).equals(pl.read_parquet(path).select(COLUMNS))
        assert set(own["seed"]) == {2}


def test_a_further_seed_is_trained_with_the_settings_of_the_published_model(trained: Path) -> None:
    call("train", "--epochs", "1", "--width", "4", "--seed", "2")
    call("train-seeds", "--seeds", "3")
    assert set(pl.read_parquet(trained / "seeds.parquet")["seed"]) == {1, 3}  # the published model has seed 2
    for path in (trained / "seeds").glob("ssl-*.parquet"):
        told = json.loads(pl.read_parquet_metadata(path)["ssl-recall"])
        assert (told["train"]["epochs"], told["train"]["width"], told["train"]["batch_size"]) == (1, 4, 32)
        assert told["train"]["seed"] == told["views"]["seed"] != 2


def test_nothing_is_trained_twice_and_a_changed_model_alone_is_trained_again(trained: Path) -> None:
    call("train-seeds", "--seeds", "3")
    before = (trained / "seeds.parquet").read_bytes()
    assert "up to date" in call("train-seeds", "--seeds", "3").stderr
    (trained / "seeds.parquet").unlink()
    next((trained / "seeds").glob("ssl-2-*")).unlink()  # as if killed in this training
    assert "3 of 4 arms and seeds are already trained" in call("train-seeds", "--seeds", "3").stderr
    assert (trained / "seeds.parquet").read_bytes() == before
    call("train-seeds", "--seeds", "1")
    assert "4 of 6 arms" in call("train-seeds", "--seeds", "4").stderr
    call("train", "--ssl-weight", "0.7")
    said = call("train-seeds", "--seeds", "4").stderr
    assert "runs again: model/model.json changed" in said
    assert "3 of 6 arms" in said
    assert len(list((trained / "seeds").glob("*.parquet"))) == 6  # the files of the other weight are deleted


def test_ranks_of_an_older_model_are_left_out(trained: Path) -> None:
    call("train-seeds", "--seeds", "2")
    call("train", "--ssl-weight", "0.7")
    call("export-embeddings")
    call("evaluate", "--baselines", "none")
    assert figures(trained)["ssl", "all", "recall", 10]["seeds"] == 1


@pytest.mark.parametrize(
    ("minutes", "why"),
    [(2, "1 seed, because a training takes 2 min; "), (None, "1 seed, because the time of a training is not recorded")],
)
def test_a_long_training_is_not_repeated_unasked(trained: Path, minutes: int | None, why: str) -> None:
    with_minutes(trained, minutes)
    assert why in call("train-seeds").stderr
    assert pl.read_parquet(trained / "seeds.parquet").is_empty()
    assert not (trained / "seeds").exists()
    assert "seed 2: " in call("run", "--seeds", "2").stderr
    assert "up to date" in call("run", "--seeds", "2").stderr
    assert set(pl.read_parquet(trained / "seeds.parquet")["seed"]) == {2}


@pytest.mark.parametrize(
    ("seconds", "steps", "resumed_at", "minutes"), [(59, 10, 0, 0), (60, 10, 0, 1), (30, 100, 90, 5), (9, 7, 7, None)]
)
def test_the_minutes_of_a_resumed_training_are_those_of_all_its_steps(
    seconds: float, steps: int, resumed_at: int, minutes: int | None
) -> None:
    assert train._minutes(seconds, steps, resumed_at) == minutes


def test_a_difference_of_one_seed_has_no_interval_in_the_table(trained: Path) -> None:
    call("train-seeds", "--seeds", "1")
    shown = call("evaluate", "--baselines", "none").stdout
    assert "one seed: the spread of training seeds is not in the intervals" in " ".join(shown.split())
    assert "one seed: a difference of up to 0.011 of all pairs counts as a tie" in shown
    row = next(line for line in shown.splitlines() if line.startswith("all "))
    assert row.count("[") == 2
    call("train-seeds", "--seeds", "2")
    shown = call("evaluate", "--baselines", "none").stdout
    assert "[95 % interval over queries and 2 seeds]" in " ".join(shown.split())
    assert "one seed" not in shown.splitlines()[-1]
    assert next(line for line in shown.splitlines() if line.startswith("all ")).count("[") == 3


def test_a_model_without_further_seeds_is_compared_on_one(shop: Path) -> None:
    train_and_export("--ssl")
    call("train-seeds", "--seeds", "2")
    assert set(pl.read_parquet(shop / "run" / "seeds.parquet")["model"]) == {"ssl"}
    train_and_export("--no-ssl")
    call("evaluate", "--baselines", "none")
    found = figures(shop / "run")
    seeds = {model: found[model, "all", "recall", 10]["seeds"] for model in ("ssl", "no-ssl", "ssl - no-ssl")}
    assert seeds == {"ssl": 2, "no-ssl": 1, "ssl - no-ssl": 1}
    assert found["ssl - most-popular", "all", "recall", 10]["seeds"] == 2


def test_lists_beyond_the_kept_ranks_are_measured_on_one_seed(trained: Path) -> None:
    call("train-seeds", "--seeds", "2")
    said = call("evaluate", "--k", "10", "--k", "120", "--baselines", "none").stderr
    assert "lists longer than 100 are measured on one seed" in said
    assert "ssl-recall train-seeds --depth 120 --run run" in said
    found = figures(trained)
    assert [found["ssl", "all", "recall", k]["seeds"] for k in (10, 120)] == [2, 1]
    call("train-seeds", "--seeds", "2", "--depth", "120")
    assert "lists longer" not in call("evaluate", "--k", "10", "--k", "120", "--baselines", "none").stderr
    assert figures(trained)["ssl", "all", "recall", 120]["seeds"] == 2
