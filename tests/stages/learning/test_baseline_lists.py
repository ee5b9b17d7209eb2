"""The lists of the baselines are those of slow numpy on the artifacts; what cannot be computed is left out."""

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from ssl_recall.evaluation.comparison import Truth
from stages.learning import baseline_lists
from stages.learning.baseline_lists import Baseline
from stages.learning.held_out import truth_of
from stages.run_folder import layout, memory_floor, reader
from stages.run_folder.job import Job
from stages.terminal.errors import SettingsError

from ...jobs import compute_popularity

K = 8
Run = tuple[reader.Reader, Truth]
Slow = Callable[[dict[str, pl.DataFrame], NDArray[np.float64]], list[NDArray[np.float64]]]


@pytest.fixture
def run(shop: Path) -> Iterator[Run]:
    yield from opened(shop / "run")


def opened(folder: Path) -> Iterator[Run]:
    reads = (*baseline_lists.READS, layout.TRAIN, layout.VALIDATION, layout.TEST, layout.POPULARITY)
    with reader.reading(folder, reads) as job:
        yield job, truth_of(job)


def republish(folder: Path, changed: dict[str, pl.DataFrame]) -> None:
    """Write the tables of prepare again, some of them changed."""
    names = [name for name, one in layout.CONTRACT.items() if one.writer == "prepare" and (folder / name).exists()]
    tables = {name: changed.get(name, pl.read_parquet(folder / name)) for name in names}
    with Job(folder, "prepare", {}, writes=names, force=True) as job:
        for name, table in tables.items():
            job.write(name, table)
    compute_popularity(folder)


def lists_of(run: Run, *asked: Baseline) -> dict[str, list[list[int]]]:
    job, truth = run
    found = baseline_lists.lists_of_baselines(job, truth, K, asked, seed=1, threads=1)
    return {name: lists.tolist() for name, lists in found.items()}


def tables_of(job: reader.Reader) -> dict[str, pl.DataFrame]:
    return {name: job.read(f"{name}.parquet") for name in ("train", "validation", "test", "items")}


def matrix(log: pl.DataFrame) -> NDArray[np.float64]:
    dense = np.zeros((40, 60))
    dense[log["query_index"], log["item_index"]] = 1
    return dense


def ranked(
    scores: NDArray[np.float64], taken: NDArray[np.float64], counts: NDArray[np.float64], k: int = K
) -> list[list[int]]:
    """Sort the items of every query by score, count and index, without the taken ones."""
    scores = np.round(scores, 6)
    return [
        sorted(np.flatnonzero(mine == 0).tolist(), key=lambda i: (-row[i], -counts[i], i))[:k]
        for row, mine in zip(scores, taken, strict=True)
    ]


def item_knn(tables: dict[str, pl.DataFrame], train: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    found = []
    for weighted, shrinkage in ((False, 0), (False, 20), (True, 0)):
        x = train * (np.log(1 + 60 / np.maximum(train.sum(1, keepdims=True), 1)) if weighted else 1)
        norms = np.linalg.norm(x, axis=0)
        similarity = (x.T @ x) / np.maximum(norms[:, None] * norms + shrinkage, 1e-12)
        np.fill_diagonal(similarity, 0)
        found.append(similarity)
    return found


def ease(tables: dict[str, pl.DataFrame], train: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    found = []
    for penalty in (100.0, 500.0, 2500.0):
        inverse = np.linalg.inv(train.T @ train + penalty * np.eye(60))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        found.append(weights)
    return found


def content_knn(tables: dict[str, pl.DataFrame], train: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    values = [{row["colour"], *row["tags"]} for row in tables["items"].iter_rows(named=True)]
    names = sorted(set.union(*values))
    vectors = np.array([[float(name in own) for name in names] for own in values])
    vectors *= np.log(60 / vectors.sum(0))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [vectors @ vectors.T]


@pytest.mark.parametrize("name", [Baseline.ITEM_KNN, Baseline.EASE, Baseline.CONTENT_KNN])
def test_the_lists_are_those_of_the_best_setting_on_validation(name: Baseline, run: Run) -> None:
    slow: Slow = globals()[name.replace("-", "_")]
    job, truth = run
    tables = tables_of(job)
    train, validation = matrix(tables["train"]), matrix(tables["validation"])
    counts = train.sum(0)
    best, picked = -1.0, np.zeros(())
    for weights in slow(tables, train):
        lists = ranked(np.maximum(train @ weights, 0), train, counts, 50)
        recall = sum(len(set(row) & set(np.flatnonzero(held))) for row, held in zip(lists, validation, strict=True))
        if recall > best:
            best, picked = recall, weights
    queries = truth.queries.numpy()
    history = train + validation  # weights from training alone, the history of a test query from both
    expected = ranked(np.maximum(history[queries] @ picked, 0), history[queries], counts)
    same = [a == b for a, b in zip(lists_of(run, name)[name], expected, strict=True)]
    assert np.mean(same) > 0.9  # equal scores of float64 may differ in float32


def test_a_history_holds_no_validation_pairs_for_the_choice_and_holds_them_for_the_test(run: Run) -> None:
    job, truth = run
    data, tables = baseline_lists._read(job, truth, seed=1, threads=1), tables_of(job)
    train, validation = (matrix(tables[name])[:, data.items] for name in ("train", "validation"))
    np.testing.assert_array_equal(data.log.toarray(), train)
    held_out, drawn = data.held_out, data.held_out.asked.queries
    np.testing.assert_array_equal(held_out.asked.histories.toarray(), train[drawn])
    found = np.zeros_like(validation)
    found[drawn[held_out.lists], held_out.columns] = 1
    np.testing.assert_array_equal(found, validation)
    np.testing.assert_array_equal(data.test.histories.toarray(), (train + validation)[truth.queries.numpy()])


def test_at_most_some_queries_of_the_validation_are_drawn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job, truth = run
    monkeypatch.setattr(baseline_lists, "VALIDATION_QUERIES", 5)
    held_out = baseline_lists._read(job, truth, seed=1, threads=1).held_out
    assert len(held_out.asked.queries) == 5
    assert set(held_out.lists.tolist()) == set(range(5))


def test_recent_popular_is_a_sort_by_decayed_counts(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    job, truth = run
    found = lists_of(run, Baseline.RECENT_POPULAR)["recent-popular"]
    share = int(re.search(r"half-life 1/(\d+) of", capsys.readouterr().err)[1])  # type: ignore[index]
    tables = tables_of(job)
    log, weights = tables["train"], np.zeros(60)
    times = log["timestamp"].to_numpy().astype(float)
    np.add.at(weights, log["item_index"].to_numpy(), 0.5 ** ((times.max() - times) * share / np.ptp(times)))
    history = (matrix(log) + matrix(tables["validation"]))[truth.queries.numpy()]
    assert found == ranked(np.tile(weights, (len(history), 1)), history, matrix(log).sum(0))


def test_known_items_are_never_recalled_and_a_query_without_history_gets_the_most_popular(run: Run) -> None:
    job, truth = run
    offsets, taken = truth.known
    first = int(offsets[1])
    stripped = replace(truth, known=(torch.cat([offsets[:1], offsets[1:] - first]), taken[first:]))
    by_count = torch.argsort(truth.counts, descending=True, stable=True)[:K].tolist()
    for lists in lists_of((job, stripped), Baseline.ITEM_KNN, Baseline.EASE, Baseline.CONTENT_KNN).values():
        assert lists[0] == by_count
        for row, recalled in enumerate(lists[1:], 1):
            assert not set(recalled) & set(taken[offsets[row] : offsets[row + 1]].tolist())


def test_the_choice_of_a_setting_never_reads_the_test(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def choices() -> list[str]:
        for run in opened(shop / "run"):
            lists_of(run, Baseline.AUTO)
        return re.findall(r"(\S+: .* of validation)", capsys.readouterr().err)

    before = choices()
    test = pl.read_parquet(shop / "run" / layout.TEST)
    reversed_items = test.with_columns(pl.col("item_index", "item_id").reverse())
    republish(shop / "run", {layout.TEST: reversed_items.head(test.height // 2)})
    assert choices() == before
    assert len(before) == 3


def test_auto_is_everything_but_als(run: Run) -> None:
    assert list(lists_of(run, Baseline.AUTO)) == ["recent-popular", "item-knn", "ease", "content-knn"]
    assert lists_of(run) == {}


def test_a_baseline_that_does_not_fit_in_memory_is_left_out_with_its_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory_floor, "available", lambda: 1.0)
    assert lists_of(run, Baseline.AUTO, Baseline.EASE) == {}
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" needs about ")[0] for line in lines] == [
        f"warning: {name}" for name in baseline_lists.BY_DEFAULT
    ]
    assert all(line.endswith("GiB of memory, there are 0.0; it is left out") for line in lines)


def test_a_slow_baseline_runs_only_when_it_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(baseline_lists, "SECONDS", -1.0)
    assert list(lists_of(run, Baseline.AUTO, Baseline.EASE)) == ["ease"]
    said = "item-knn takes about 1 min and is left out; to include it run: ssl-recall evaluate --baselines auto "
    assert f"{said}--baselines item-knn --run " in capsys.readouterr().err


def test_a_named_baseline_that_is_impossible_is_refused(shop: Path) -> None:
    folder = shop / "run"
    logs = {name: pl.read_parquet(folder / name).drop("timestamp") for name in (layout.TRAIN, layout.VALIDATION)}
    features = pl.read_parquet(folder / layout.FEATURES).filter(kind="id")
    republish(folder, logs | {layout.FEATURES: features})
    for run in opened(folder):
        with pytest.raises(SettingsError, match=r"NO_TIME: .*prepare with --timestamp"):
            lists_of(run, Baseline.RECENT_POPULAR)
        with pytest.raises(SettingsError, match=r"NO_FEATURES: .*needs a categorical or multi-valued feature"):
            lists_of(run, Baseline.CONTENT_KNN)
        assert list(lists_of(run, Baseline.AUTO)) == ["item-knn", "ease"]  # not named: left out without a word


def test_als_without_its_library_names_the_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit", None)
    with pytest.raises(SettingsError, match=r"NO_IMPLICIT: .*run: pip install 'implicit>=0\.7\.3'"):
        lists_of(run, Baseline.ALS)


@pytest.mark.skipif(importlib.util.find_spec("implicit") is None, reason="implicit is an extra")
def test_als_is_measured_when_it_is_named(run: Run) -> None:
    assert list(lists_of(run, Baseline.ALS)) == ["als"]
