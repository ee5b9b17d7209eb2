"""train: it turns artifacts into a model, which can be loaded again."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from ssl_recall.data.histories import so_far
from ssl_recall.embedding import embed_queries
from stages.export_embeddings import _frame
from stages.learning import model_files, training_inputs
from stages.learning.fit import recall_line
from stages.learning.settings import SeedPer, SelectOn
from stages.run_folder import reader
from stages.terminal.errors import InputError, NumberError, SettingsError

from ..jobs import build_views, compute_mi, compute_popularity, export_embeddings, prepare, train

SMALL = {
    "epochs": 2,
    "batch_size": 64,
    "ssl_batch_size": 32,
    "ssl_every": 1,
    "ssl_warmup_steps": 3,
    "further_negatives": 16,
    "embedding_width": 8,
    "width": 8,
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Prepare a run: 30 items in five colours; a user takes items of one colour, one per day."""
    rng, rows = np.random.default_rng(2), []
    items = pl.DataFrame({"item_id": range(30), "colour": [f"c{n % 5}" for n in range(30)], "size": rng.random(30)})
    for user in range(40):
        rows += [(f"u{user}", int(n) * 5 + user % 5, day) for day, n in enumerate(rng.choice(6, 5, replace=False))]
    log = pl.DataFrame(rows, schema=["query_id", "item_id", "timestamp"], orient="row")
    items.write_parquet(tmp_path / "items.parquet")
    log.write_parquet(tmp_path / "log.parquet")
    folder = tmp_path / "run"
    prepare(
        tmp_path / "log.parquet",
        tmp_path / "items.parquet",
        run=folder,
        timestamp="timestamp",
        validation_share=0.2,
        test_share=0.2,
    )
    compute_popularity(folder)
    compute_mi(folder)
    build_views(folder, variants=3)
    return folder


def test_the_curve_and_the_best_epoch_are_written(run: Path) -> None:
    train(run, **SMALL | {"epochs": 4, "patience": 4})
    curve = pl.read_parquet(run / "training.parquet")
    assert curve["epoch"].to_list() == [0, 1, 2, 3]
    assert curve["steps"].to_list() == [1, 2, 3, 4]
    assert (curve["loss"] - (curve["main_loss"] + 0.1 * curve["ssl_loss"])).abs().max() < 1e-6
    best = curve.filter("best")
    assert best.height == 1
    assert best["recall_balanced_at_50"][0] == curve["recall_balanced_at_50"].max()
    about = json.loads((run / "model" / "model.json").read_text())
    row = best.drop("best").row(0, named=True)
    assert str(sorted(about["epoch"].items())) == str(sorted(row.items()))  # compared as text, because nan != nan
    assert all(np.isfinite(weight).all() for weight in load_file(run / "model" / "weights.safetensors").values())


def test_the_same_settings_give_the_same_bytes_and_another_seed_does_not(run: Path) -> None:
    def weights(**settings: object) -> bytes:
        train(run, **SMALL | settings, force=True)
        return (run / "model" / "weights.safetensors").read_bytes()

    first = weights()
    assert weights() == first
    assert weights(seed=2) != first


@pytest.mark.parametrize(
    "settings",
    [
        {"history": 3},
        {"logq": False},
        {"id_dropout": 0.5},
        {"further_negatives": 0},
        {"ssl_seed_per": SeedPer.ITEM},
        {"hidden": [16, 8]},
        {"select_on": SelectOn.TAIL},
        {"batch_size": 4096},
        {"average_decay": 0.0},
    ],
    ids=str,
)
def test_each_setting_changes_the_model(run: Path, settings: dict[str, object]) -> None:
    train(run, **SMALL)
    before = (run / "model" / "weights.safetensors").read_bytes()
    train(run, **SMALL | settings)
    changed = (run / "model" / "weights.safetensors").read_bytes() != before
    assert changed or "select_on" in settings or settings == {"batch_size": 4096}
    export_embeddings(run)
    lengths = np.linalg.norm(pl.read_parquet(run / "item_embeddings.parquet")["embedding"].to_numpy(), axis=1)
    assert np.abs(lengths - 1).max() < 1e-5


def test_a_model_without_ssl_needs_no_views_and_leaves_the_other_alone(run: Path) -> None:
    train(run, **SMALL)
    before = (run / "model" / "weights.safetensors").read_bytes()
    (run / "views.parquet").unlink()
    train(run, ssl=False, **SMALL)
    curve = pl.read_parquet(run / "no-ssl" / "training.parquet")
    assert (curve["ssl_loss"] == 0).all()
    assert (run / "model" / "weights.safetensors").read_bytes() == before


def test_settings_of_ssl_do_not_make_the_model_without_it_stale(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(run, ssl=False, **SMALL)
    train(run, ssl=False, **SMALL | {"ssl_weight": 0.9})
    assert "up to date" in capsys.readouterr().err


def test_early_stopping_stops(run: Path) -> None:
    train(run, **SMALL | {"epochs": 50, "patience": 1})
    curve = pl.read_parquet(run / "training.parquet")
    best = curve.filter("best")["epoch"][0]
    assert curve.height == min(best + 2, 50)


def test_a_loss_that_is_no_number_stops_with_exit_6_and_publishes_nothing(run: Path) -> None:
    with pytest.raises(NumberError, match=r"(epoch \d+|warm-up), step \d+.*; lower --learning-rate") as caught:
        train(run, **SMALL | {"learning_rate": 1e30, "epochs": 9})
    assert caught.value.code == 6
    assert not (run / "model").exists() or not list((run / "model").iterdir())


def test_an_unknown_device_is_a_usage_error(run: Path) -> None:
    with pytest.raises(SettingsError, match="--device mainframe"):
        train(run, **SMALL, device="mainframe")


def test_nothing_to_validate_on_is_refused(run: Path, tmp_path: Path) -> None:
    tables = tmp_path / "log.parquet", tmp_path / "items.parquet"
    prepare(*tables, run=run, timestamp="timestamp", validation_share=0.0, test_share=0.2)
    compute_popularity(run)
    with pytest.raises(InputError, match=r"validation\.parquet: empty"):
        train(run, ssl=False, **SMALL)


def test_an_exported_query_knows_what_it_took_up_to_the_test_and_nothing_later(run: Path) -> None:
    train(run, **SMALL | {"history": 3})
    export_embeddings(run)
    exported = pl.read_parquet(run / "query_embeddings.parquet")["embedding"].to_numpy()
    names = ("features", "items", "queries", "train", "validation", "test")
    files = [*(f"{name}.parquet" for name in names), "model/weights.safetensors", "model/model.json"]
    with reader.reading(run, files) as job:
        items, queries = training_inputs.item_and_query_tables(job)
        model, shape = model_files.load(job, "", items, queries)
        logs = {name: job.read(f"{name}.parquet") for name in ("train", "validation", "test")}

    def vectors(*parts: str) -> np.ndarray:
        log = training_inputs.interactions_of(pl.concat([logs[part] for part in parts]), queries.rows)
        histories = so_far(log, torch.arange(queries.rows), shape.history)
        return embed_queries(model, queries, None, histories, items).numpy()

    np.testing.assert_allclose(exported, vectors("train", "validation"), atol=1e-6)
    assert np.abs(exported - vectors("train")).max() > 1e-3
    assert np.abs(exported - vectors("train", "validation", "test")).max() > 1e-3


def test_an_epoch_without_the_self_supervised_task_has_no_loss_of_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(run, **SMALL | {"epochs": 4, "patience": 4, "ssl_every": 3})
    assert "is in one of every 3 steps: some epochs lack it; try --ssl-every 1" in capsys.readouterr().err
    curve = pl.read_parquet(run / "training.parquet")
    assert curve["ssl_loss"].is_null().to_list() == [False, True, True, False]
    assert (curve["loss"] - curve["main_loss"] - 3 * 0.1 * curve["ssl_loss"].fill_null(0)).abs().max() < 1e-6


def test_a_vector_that_is_no_number_is_not_exported() -> None:
    with pytest.raises(NumberError, match="1 of 2 vectors are not finite"):
        _frame(pl.DataFrame({"item_id": ["a", "b"]}), torch.tensor([[1.0, 0.0], [float("nan"), 0.0]]))


def test_a_log_of_few_steps_is_warned_of_with_what_would_help(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(run, **SMALL)
    rows = pl.read_parquet(run / "train.parquet").height
    error = capsys.readouterr().err
    assert f"{rows} interactions are 1 step an epoch at --batch-size 64, 2 in all: too few to learn from" in error
    assert "--patience " in error
    tried = re.search(r"try train --batch-size (\d+) --epochs (\d+)", error)
    assert tried is not None
    assert (rows // int(tried[1])) * int(tried[2]) >= 1000
    train(run, **SMALL | {"batch_size": int(tried[1]), "epochs": int(tried[2]), "patience": 1})
    assert "too few" not in capsys.readouterr().err


def test_an_epoch_cannot_be_picked_by_a_slice_that_has_nothing_held_out(run: Path) -> None:
    assert pl.read_parquet(run / "popularity.parquet")["count"].min() > 0
    with pytest.raises(InputError, match=r"TOO_FEW: .*no cold item to pick the epoch by"):
        train(run, **SMALL, select_on=SelectOn.COLD)


def test_a_slice_that_is_not_held_out_is_no_part_of_an_epoch_s_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pl.read_parquet(run / "popularity.parquet")["count"].min() > 0
    train(run, **SMALL)
    lines = capsys.readouterr().err
    assert re.search(r"epoch 0: validation recall@50 \d\.\d{3} all, \d\.\d{3} tail, \d\.\d{3} balanced\n", lines)
    assert "nan" not in lines


def test_an_epoch_s_line_names_what_is_held_out_of_all_the_tail_and_the_cold() -> None:
    row = {"recall_all": 0.5, "recall_head": 0.7, "recall_tail": 0.25, "recall_cold": 0.125, "recall_balanced": 0.475}
    assert recall_line(row) == "validation recall@50 0.500 all, 0.250 tail, 0.125 cold, 0.475 balanced"


def test_the_log_that_is_trained_on_is_the_table(run: Path) -> None:
    table = pl.read_parquet(run / "train.parquet")
    with reader.reading(run, ("train.parquet",)) as job:
        log = training_inputs.read_interactions(job, "train.parquet", 40)
    assert (log.queries.dtype, log.items.dtype) == (torch.int32, torch.int32)
    assert log.queries.tolist() == table["query_index"].to_list()
    assert log.items.tolist() == table["item_index"].to_list()
    assert log.offsets[-1] == table.height


@pytest.mark.parametrize("history", [0, 3])
def test_a_catalogue_embedded_in_parts_has_the_vectors_of_the_whole(
    run: Path, history: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run, **SMALL, history=history)
    export_embeddings(run)
    whole = [pl.read_parquet(run / f"{side}_embeddings.parquet") for side in ("item", "query")]
    monkeypatch.setattr("stages.export_embeddings.PART", 7)
    export_embeddings(run, force=True)
    assert pq.ParquetFile(run / "item_embeddings.parquet").num_row_groups == 5  # of thirty items
    for side, expected in zip(("item", "query"), whole, strict=True):
        found = pl.read_parquet(run / f"{side}_embeddings.parquet")
        assert found.schema == expected.schema
        assert found[f"{side}_id"].equals(expected[f"{side}_id"])
        np.testing.assert_allclose(found["embedding"].to_numpy(), expected["embedding"].to_numpy(), atol=1e-6)
