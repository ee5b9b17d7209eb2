"""train: every setting reaches the training, and the saved weights are those of the selected epoch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ssl_recall import towers
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import EncodedTable
from ssl_recall.evaluation import validation
from ssl_recall.training import loop, sampling
from ssl_recall.training.objective import Objective, SelfSupervision
from ssl_recall.training.planner import TrainingData
from stages.learning.objective import objective_of
from stages.learning.settings import SeedPer, SelectOn, TrainSettings
from stages.learning.training_inputs import TRAINING_READS, load_training_inputs
from stages.run_folder import layout, reader

from ...jobs import build_views, compute_mi, compute_popularity, prepare, train

SMALL: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 64,
    "ssl_batch_size": 32,
    "ssl_warmup_steps": 3,
    "further_negatives": 16,
    "embedding_width": 8,
    "width": 8,
}
SETTINGS = TrainSettings(
    ssl_weight=0.21,
    ssl_batch_size=22,
    ssl_temperature=0.23,
    ssl_seed_per=SeedPer.ITEM,
    ssl_warmup_steps=31,
    ssl_every=6,
    ssl_neighbour_weight=0.32,
    temperature=0.24,
    batch_size=4096,
    further_negatives=26,
    cold_negative_rate=0.25,
    validation_queries=28,
    id_dropout=0.29,
    feature_dropout=0.33,
    seed=5,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Prepare a run: 40 items, ten of them without interactions; a user takes items of one colour."""
    rng, rows = np.random.default_rng(2), []
    items = pl.DataFrame({"item_id": range(40), "colour": [f"c{n % 5}" for n in range(40)]})
    for user in range(40):
        rows += [(f"u{user}", int(n) * 5 + user % 5) for n in rng.choice(6, 5, replace=False)]
    log = pl.DataFrame(rows, schema=["query_id", "item_id"], orient="row")
    items.write_parquet(tmp_path / "items.parquet")
    log.write_parquet(tmp_path / "log.parquet")
    folder = tmp_path / "run"
    prepare(tmp_path / "log.parquet", tmp_path / "items.parquet", run=folder, validation_share=0.2, test_share=0.1)
    compute_popularity(folder)
    compute_mi(folder)
    build_views(folder, variants=3)
    return folder


def loaded(run: Path, **settings: Any) -> tuple[TrainingData, validation.HeldOut]:
    with reader.reading(run, (*TRAINING_READS, layout.VIEWS)) as job:
        return load_training_inputs(job, replace(SETTINGS, **settings))


def test_the_objective_is_the_settings_field_by_field() -> None:
    expected = Objective(
        batch_size=4096,
        temperature=0.24,
        further_negatives=26,
        id_dropout=0.29,
        history=0,
        history_dropout=0.1,
        feature_dropout=0.33,
        ssl=SelfSupervision(
            weight=0.21, batch_size=22, temperature=0.23, shared_seed=False, neighbour_weight=0.32, warm_up=31, every=6
        ),
        bf16=True,
    )
    assert objective_of(SETTINGS, bf16=True) == expected
    shared = objective_of(replace(SETTINGS, ssl_seed_per=SeedPer.BATCH), bf16=True).ssl
    assert shared is not None
    assert shared.shared_seed
    assert objective_of(replace(SETTINGS, ssl=False), bf16=True).ssl is None


def test_log_q_is_the_mixture_of_the_log_and_the_drawn_negatives(run: Path) -> None:
    """A batch of 4,096 becomes the whole log; a cold item is drawn a quarter as often as a warm one."""
    data, _ = loaded(run)
    popularity = pl.read_parquet(run / "popularity.parquet")
    counts, p = popularity["count"].to_numpy(), popularity["p"].to_numpy()
    cold, batch = int((counts == 0).sum()), pl.read_parquet(run / "train.parquet").height
    share = 0.25 * cold / (0.25 * cold + (len(counts) - cold))
    drawn = np.where(counts == 0, share / cold, (1 - share) / (len(counts) - cold))
    np.testing.assert_allclose(data.log_q.numpy(), np.log((batch * p + 26 * drawn) / (batch + 26)), rtol=1e-5)
    assert data.negatives is not None
    assert data.negatives.cold_share == pytest.approx(share)
    assert not loaded(run, logq=False)[0].log_q.any()
    np.testing.assert_allclose(loaded(run, further_negatives=0)[0].log_q.numpy(), np.log(p), rtol=1e-5)


def test_validation_looks_at_as_many_queries_as_were_asked_for(run: Path) -> None:
    _, held_out = loaded(run)
    assert len(held_out.queries.unique()) == 28
    _, other = loaded(run, seed=6)
    assert not torch.equal(other.queries.unique(), held_out.queries.unique())


def test_the_optimisers_have_their_own_rates_and_the_accumulator() -> None:
    one = EncodedTable(("a",), (Kind.CATEGORICAL,), ("a",), torch.tensor([2]), torch.tensor([0, 1]), {})
    model = towers.two_tower(one, one, {"a": 3}, embedding_width=2, hidden=[2], width=2, history=False, seed=0)
    rows, rest = loop.make_optimisers(model, 0.001, 0.1, 0.5)
    assert (rows.param_groups[0]["lr"], rows.param_groups[0]["initial_accumulator"]) == (0.1, 0.5)
    assert rest.param_groups[0]["lr"] == 0.001


def test_no_two_steps_share_a_draw(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[tuple[int, ...]] = []
    plain = sampling.torch_generator

    def watched(*key: int) -> torch.Generator:
        keys.append(key)
        return plain(*key)

    monkeypatch.setattr(sampling, "torch_generator", watched)
    small = SMALL | {"epochs": 2, "patience": 2, "batch_size": 16, "ssl_every": 3}
    train(run, **small | {"feature_dropout": 0.2, "ssl_warmup_steps": 5})
    assert len(keys) == len(set(keys))
    steps_of = {epoch: {key[2] for key in keys if len(key) == 4 and key[1] == epoch} for epoch in (0, 1)}
    assert len(steps_of[0]) == len(steps_of[1]) > 1
    main = {sampling.ID_DROPOUT, sampling.NEGATIVES, sampling.FEATURE_DROPOUT}
    drawn = {(1, epoch, step, stream) for epoch, own in steps_of.items() for step in own for stream in main}
    number = {(epoch, step): epoch * len(own) + step for epoch, own in steps_of.items() for step in own}
    drawn |= {(1, *place, sampling.SSL) for place, at in number.items() if at % 3 == 0}
    alone = (main | {sampling.SSL}) - {sampling.NEGATIVES}
    warm_up = {(1, sampling.WARM_UP, step, stream) for step in range(5) for stream in alone}
    assert {key for key in keys if len(key) == 4} == drawn | warm_up


def test_the_warm_up_has_the_steppers_and_the_average_of_the_epochs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def watched(plain: Any) -> Any:
        return lambda *args, **more: (given.append((args[1], args[-1])), plain(*args, **more))[1]

    for name in ("warm_up", "train_epoch"):
        monkeypatch.setattr(loop, name, watched(getattr(loop, name)))
    train(run, **SMALL | {"epochs": 1})
    (steppers, average), (same, too) = given
    assert steppers is same
    assert average is too is not None


def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the validation by figures whose best epoch differs from slice to slice."""
    names = ("recall", "recall_all", "recall_head", "recall_tail", "recall_cold", "recall_warm-tail", "recall_balanced")
    best = {"recall": 0, "recall_tail": 1, "recall_cold": 2, "recall_balanced": 3}
    epoch = iter(range(100))

    def recall(*_: object) -> dict[str, float]:
        now = next(epoch)
        return {name: 0.9 if best.get(name) == now else 0.1 for name in names}

    monkeypatch.setattr(validation, "recall", recall)


@pytest.mark.parametrize(("figure", "best"), [("all", 0), ("tail", 1), ("cold", 2), ("balanced", 3)])
def test_the_epoch_is_picked_by_the_figure_that_was_asked_for(
    run: Path, figure: str, best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch)
    monkeypatch.setattr(validation, "sample", everything_held_out)
    train(run, **SMALL | {"epochs": 9, "patience": 4}, select_on=SelectOn(figure))
    about = json.loads((run / "model" / "model.json").read_text())
    assert about["epoch"]["epoch"] == best
    curve = pl.read_parquet(run / "training.parquet")
    assert curve.filter("best")["epoch"].to_list() == [best]
    assert curve.height == best + 5  # patience


def everything_held_out(
    queries: torch.Tensor, items: torch.Tensor, slices: dict[str, torch.Tensor], *_: object
) -> validation.HeldOut:
    return validation.HeldOut(queries, items, {name: torch.ones(len(items), dtype=torch.bool) for name in slices})


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_the_weights_that_are_saved_are_those_of_the_best_epoch(
    run: Path, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "sample", everything_held_out)
    scripted(monkeypatch)
    train(run, **SMALL | {"epochs": 5, "patience": 5, "average_decay": decay}, select_on=SelectOn.TAIL)
    saved = (run / "model" / "weights.safetensors").read_bytes()
    scripted(monkeypatch)
    train(run, **SMALL | {"epochs": 2, "patience": 5, "average_decay": decay}, select_on=SelectOn.TAIL)
    assert (run / "model" / "weights.safetensors").read_bytes() == saved
    scripted(monkeypatch)
    train(run, **SMALL | {"epochs": 1, "average_decay": decay}, select_on=SelectOn.TAIL)
    assert (run / "model" / "weights.safetensors").read_bytes() != saved
