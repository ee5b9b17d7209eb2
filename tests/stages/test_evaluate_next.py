"""evaluate --targets next: one list per test pair, from the history rolled forward."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner, Result

from ssl_recall.data.histories import before
from ssl_recall.embedding import embed_queries
from stages import cli
from stages.learning import model_files, training_inputs
from stages.run_folder import layout, manifest, reader
from stages.terminal.errors import SettingsError

SIDES = ("train", "validation", "test")
K = 8


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.app, arguments)
    if isinstance(result.exception, SettingsError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def evaluate(*flags: str) -> Result:
    return call("evaluate", "--k", str(K), "--baselines", "none", "--targets", "next", *flags)


def figures(run: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    frame = pl.read_parquet(run / "metrics.parquet").filter(k=K)
    return {(row["model"], row["slice"], row["metric"]): row for row in frame.iter_rows(named=True)}


def pairs_and_histories(run: Path) -> list[tuple[int, int, list[int]]]:
    """Return each test pair with what its query took strictly before it, in the order of query, time and item."""
    log = pl.concat(
        [pl.read_parquet(run / f"{side}.parquet").with_columns(test=pl.lit(side == "test")) for side in SIDES]
    )
    rows = log.select("query_index", "timestamp", "item_index", "test").sort(pl.all()).rows()
    return [
        (query, item, [i for q, t, i, _ in rows if q == query and t < time]) for query, time, item, test in rows if test
    ]


@pytest.fixture
def trained(shop: Path, request: pytest.FixtureRequest) -> Path:
    """Publish the vectors of a model, whose query tower has a history if the test asks for one."""
    settings = shop / "ssl-recall.toml"
    history = getattr(request, "param", 0)
    settings.write_text(settings.read_text().replace("[train]", f"[train]\nhistory = {history}"))
    for command in ("build-views", "train", "export-embeddings"):
        call(command)
    return shop / "run"


def test_recall_is_what_a_loop_over_the_pairs_finds(trained: Path) -> None:
    evaluate()
    counts = pl.read_parquet(trained / "popularity.parquet")["count"].to_numpy()
    items, queries = (
        pl.read_parquet(trained / f"{side}_embeddings.parquet")["embedding"].to_numpy() for side in ("item", "query")
    )
    hits: dict[str, list[bool]] = {"ssl": [], "most-popular": []}
    places = []
    for query, item, history in pairs_and_histories(trained):
        for name, scores in (("ssl", items @ queries[query]), ("most-popular", counts)):
            order = [i for i in np.argsort(-scores, kind="stable") if i not in history]
            hits[name].append(item in order[:K])
            if name == "ssl":
                places.append(order.index(item) + 1)
    found = figures(trained)
    for name, own in hits.items():
        assert found[name, "all", "recall"]["value"] == pytest.approx(np.mean(own))
        assert found[name, "all", "recall_per_query"]["value"] == pytest.approx(np.mean(own))  # one target per list
        assert found[name, "all", "ndcg"]["n"] == len(own) == 80
    expected = np.mean([1 / place if place <= K else 0 for place in places])
    assert found["ssl", "all", "map"]["value"] == pytest.approx(expected)
    entry = manifest.read(trained)["stages"]["evaluate"]
    assert entry["settings"]["targets"] == "next"


@pytest.mark.parametrize("trained", [2], indirect=True)
def test_a_query_tower_with_a_history_sees_the_earlier_test_pairs(trained: Path) -> None:
    evaluate()
    reads = (*layout.CONTRACT, layout.MODEL, layout.WEIGHTS)
    held = [name for name in reads if (trained / name).exists() and name != "metrics.parquet"]
    with reader.reading(trained, held) as job:
        tables = training_inputs.item_and_query_tables(job)
        model, shape = model_files.load(job, "", *tables)
        columns = ["query_index", "item_index", "timestamp"]
        log = training_inputs.interactions_of(pl.concat([job.read(f"{s}.parquet", columns) for s in SIDES]), 40)
        vectors = embed_queries(model, tables[1], log.queries, before(log, torch.arange(240), shape.history), tables[0])
    items = pl.read_parquet(trained / "item_embeddings.parquet")["embedding"].to_numpy()
    exported = pl.read_parquet(trained / "query_embeddings.parquet")["embedding"].to_numpy()
    row_of = {pair: row for row, pair in enumerate(zip(log.queries.tolist(), log.items.tolist(), strict=True))}
    hits, as_exported = [], []
    for query, item, history in pairs_and_histories(trained):
        own = vectors[row_of[query, item]].numpy()
        hits.append(item in [i for i in np.argsort(-items @ own, kind="stable") if i not in history][:K])
        as_exported.append(np.allclose(own, exported[query], atol=1e-6))
    assert figures(trained)["ssl", "all", "recall"]["value"] == pytest.approx(np.mean(hits))
    assert any(as_exported)  # before the first test pair, the history is that of the export
    assert not all(as_exported)


@pytest.mark.parametrize("trained", [2], indirect=True)
def test_further_seeds_rank_the_same_lists(trained: Path) -> None:
    call("train-seeds", "--seeds", "2")
    said = evaluate().stderr
    assert "run: ssl-recall train-seeds --seeds 2 --targets next --run run" in said
    assert figures(trained)["ssl", "all", "recall"]["seeds"] == 1
    first = figures(trained)["ssl", "all", "recall"]["value"]
    call("train-seeds", "--seeds", "2", "--targets", "next")
    assert "train-seeds --seeds" not in evaluate().stderr
    seeds = pl.read_parquet(trained / "seeds.parquet")
    pairs = [(query, item) for query, item, _ in pairs_and_histories(trained)]
    assert seeds.select("query_index", "item_index").rows() == pairs
    second = (seeds["rank"].fill_null(10**6) <= K).mean()
    row = figures(trained)["ssl", "all", "recall"]
    assert (row["value"], row["seeds"]) == (pytest.approx((first + second) / 2), 2)
    call("train", "--seed", "2")  # the published model is now the second seed
    call("build-views", "--seed", "2")
    call("train", "--seed", "2")
    call("export-embeddings")
    evaluate()
    assert figures(trained)["ssl", "all", "recall"]["value"] == pytest.approx(second)


def test_run_ranks_the_lists_that_evaluate_measures(shop: Path) -> None:
    with (shop / "ssl-recall.toml").open("a") as file:
        file.write('\n[evaluate]\ntargets = "next"\nbaselines = ["none"]\nk = [8]\n')
    shown = call("run", "--seeds", "2", "--no-baseline").stdout
    assert "recall@8 on the test pairs, each with a list made from what its query took before it" in shown
    assert figures(shop / "run")["ssl", "all", "recall"]["seeds"] == 2
    stages = manifest.read(shop / "run")["stages"]
    assert stages["train-seeds"]["settings"] == {"depth": 100, "seeds": 2, "targets": "next"}
    assert "to run" not in call("status", "--seeds", "2", "--no-baseline").stdout


def test_the_baselines_see_the_earlier_test_pairs(trained: Path) -> None:
    """ItemKNN with plain cosines, by hand: scores of the history rolled forward."""
    call("evaluate", "--k", str(K), "--baselines", "item-knn", "--targets", "next")
    train, counts = pl.read_parquet(trained / "train.parquet"), pl.read_parquet(trained / "popularity.parquet")["count"]
    taken = np.zeros((40, 60))
    taken[train["query_index"], train["item_index"]] = 1
    lengths = np.maximum(np.linalg.norm(taken, axis=0), 1e-9)
    cosine = taken.T @ taken / np.outer(lengths, lengths)
    np.fill_diagonal(cosine, 0)
    hits = []
    for _, item, history in pairs_and_histories(trained):
        scores = cosine[history].sum(0)
        order = sorted(range(60), key=lambda i: (-round(scores[i], 5), -counts[i], i))
        hits.append(item in [i for i in order if i not in history][:K])
    assert figures(trained)["item-knn", "all", "recall"]["value"] == pytest.approx(np.mean(hits))


def test_next_needs_times(shop: Path) -> None:
    settings = shop / "ssl-recall.toml"
    settings.write_text(settings.read_text().replace('timestamp = "timestamp"\n', ""))
    log = shop / "log.parquet"
    pl.read_parquet(log).drop("timestamp").write_parquet(log)
    for command in ("prepare", "compute-popularity", "compute-mi", "build-views", "train", "export-embeddings"):
        call(command)
    with pytest.raises(SettingsError, match="NO_TIME: --targets next needs times"):
        evaluate()
