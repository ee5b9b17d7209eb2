"""evaluate: its figures are those of ten lines of numpy on the artifacts."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stages.run_folder import manifest
from stages.run_folder.job import Job
from stages.terminal import console, metrics_table
from stages.terminal.errors import ArtifactError, InputError

from ..jobs import evaluate

ITEMS, QUERIES, WIDTH = 40, 12, 4
SIZES = {"item": ITEMS, "query": QUERIES}
BY_DEFAULT = {"most-popular", "item-knn", "ease", "content-knn"}
SPLITS = ("train", "validation", "test")


def unit_vectors(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def publish(run: Path, stage: str, tables: dict[str, pl.DataFrame]) -> None:
    with Job(run, stage, {}, writes=[f"{name}.parquet" for name in tables], force=True) as job:
        for name, table in tables.items():
            job.write(f"{name}.parquet", table)


def vectors_of(name: str, rows: int, seed: int) -> pl.DataFrame:
    array = pl.Series(unit_vectors(rows, seed), dtype=pl.Array(pl.Float32, WIDTH))
    return pl.DataFrame({f"{name}_id": [f"{name}{n}" for n in range(rows)], "embedding": array})


def described(items: int, queries: int) -> dict[str, pl.DataFrame]:
    """Return the tables of items and queries: an item has one of five colours, a query its id alone."""
    colours = pl.Series([2 + n % 5 for n in range(items)], dtype=pl.Int32)
    features = [
        ("item", "item_id", "id", "item_id", items + 2, 0, 0.0),
        ("item", "colour", "categorical", "colour", 7, 0, 0.0),
        ("query", "query_id", "id", "query.query_id", queries + 2, 0, 0.0),
    ]
    schema = {"side": pl.String, "feature": pl.String, "kind": pl.String, "vocabulary": pl.String, "codes": pl.Int64}
    codes = {name: pl.Series([n + 2 for n in range(rows)], dtype=pl.Int32) for name, rows in SIZES.items()}
    return {
        "features": pl.DataFrame(features, schema=schema | {"width": pl.Int32, "missing": pl.Float64}, orient="row"),
        "items": pl.DataFrame(
            {
                "item_id": [f"item{n}" for n in range(items)],
                "item_id__code": codes["item"],
                "colour": colours.cast(pl.String),
                "colour__code": colours,
            }
        ),
        "queries": pl.DataFrame({"query_id": [f"query{n}" for n in range(queries)], "query_id__code": codes["query"]}),
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Publish twelve queries with ten items each; items 34 and later are in the test alone."""
    rng, rows = np.random.default_rng(5), []
    for query in range(QUERIES):
        for n, item in enumerate(rng.choice(34, 9, replace=False)):
            rows.append((query, int(item), SPLITS[0 if n < 5 else n % 2 + 1]))
        rows.append((query, 34 + query % 6, "test"))
    log = pl.DataFrame(rows, schema={"query_index": pl.Int32, "item_index": pl.Int32, "side": pl.String}, orient="row")
    log = log.sort("query_index", "item_index").select(
        pl.format("query{}", "query_index").alias("query_id"),
        pl.format("item{}", "item_index").alias("item_id"),
        "query_index",
        "item_index",
        "side",
    )
    tables = {side: log.filter(side=side).drop("side") for side in SPLITS}
    publish(tmp_path, "prepare", tables | described(ITEMS, QUERIES))
    counts = np.bincount(log.filter(side="train")["item_index"].to_numpy(), minlength=ITEMS)
    p = np.maximum(counts, 0.01) / np.maximum(counts, 0.01).sum()
    ids = [f"item{n}" for n in range(ITEMS)]
    popularity = pl.DataFrame({"item_id": ids, "count": counts.astype(np.int64), "p": p, "log_p": np.log(p)})
    publish(tmp_path, "compute-popularity", {"popularity": popularity})
    for folder, seed in (("", 1), ("no-ssl/", 2)):
        tables = {"item": (ITEMS, seed), "query": (QUERIES, seed + 10)}
        stage = "export-embeddings" + (" --no-ssl" if folder else "")
        found = {f"{folder}{name}_embeddings": vectors_of(name, *shape) for name, shape in tables.items()}
        publish(tmp_path, stage, found)
    return tmp_path


def figures(run: Path) -> dict[tuple[str, str, str, int], dict[str, float]]:
    frame = pl.read_parquet(run / "metrics.parquet")
    return {(r["model"], r["slice"], r["metric"], r["k"]): r for r in frame.iter_rows(named=True)}


def test_recall_is_what_numpy_finds_in_the_artifacts(run: Path) -> None:
    evaluate(run, k=[3, 8], bootstrap=50)
    found = figures(run)
    tables = {side: pl.read_parquet(run / f"{side}.parquet") for side in SPLITS}
    counts = pl.read_parquet(run / "popularity.parquet")["count"].to_numpy()
    head = np.argsort(-counts, kind="stable")[:4]
    for model, folder in (("ssl", ""), ("no-ssl", "no-ssl/"), ("most-popular", None)):
        if folder is None:
            scores = np.tile(counts - np.arange(ITEMS) * 1e-6, (QUERIES, 1))
        else:
            items = pl.read_parquet(run / f"{folder}item_embeddings.parquet")["embedding"].to_numpy()
            scores = pl.read_parquet(run / f"{folder}query_embeddings.parquet")["embedding"].to_numpy() @ items.T
        for side in ("train", "validation"):  # lists leave out earlier items
            scores[tables[side]["query_index"], tables[side]["item_index"]] = -np.inf
        q, i = tables["test"]["query_index"].to_numpy(), tables["test"]["item_index"].to_numpy()
        rank = (scores[q] > scores[q, i][:, None]).sum(1)
        for part, kept in (
            ("all", i >= 0),
            ("head", np.isin(i, head)),
            ("tail", ~np.isin(i, head)),
            ("cold", counts[i] == 0),
        ):
            for k in (3, 8):
                row = found[model, part, "recall", k]
                assert row["n"] == kept.sum()
                if kept.any():
                    assert row["value"] == pytest.approx((rank[kept] < k).mean())
                    assert row["low"] <= row["value"] <= row["high"]


def test_the_difference_is_that_of_the_two_rows_and_its_interval_is_paired(run: Path) -> None:
    evaluate(run, k=[8], bootstrap=200)
    found = figures(run)
    for metric in ("recall", "recall_per_query", "map", "ndcg"):
        change = found["ssl - no-ssl", "all", metric, 8]["value"]
        values = [found[model, "all", metric, 8]["value"] for model in ("ssl", "no-ssl")]
        assert change == pytest.approx(values[0] - values[1])
    assert ("ssl", "all", "coverage", 8) in found
    assert ("most-popular", "all", "mean_popularity", 8) in found


def test_the_table_has_a_row_a_slice_and_a_column_a_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run, bootstrap=10)
    lines = capsys.readouterr().out.splitlines()
    starts = [line.split(" ")[0] for line in lines]
    assert [start for start in starts if start in {"all", "head", "tail", "cold"}] == ["all", "head", "tail", "cold"]
    titles = [line.split() for line in lines[1:3]]
    assert titles[0] == ["most", "content", "test"]
    assert titles[1] == ["popular", "ItemKNN", "EASE", "kNN", "no", "SSL", "SSL", "SSL", "-", "no", "SSL", "pairs"]
    assert lines[0] == "recall@50 on the test pairs"
    assert lines[-1].startswith("serve ")


def test_json_alone_is_on_stdout(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run, k=[5], bootstrap=10, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in rows} >= {"most-popular", "no-ssl", "ssl", "ssl - no-ssl"}


def test_a_model_alone_is_compared_with_the_baselines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "no-ssl" / "item_embeddings.parquet").unlink()
    evaluate(run, k=[5], bootstrap=10)
    measured = BY_DEFAULT | {"ssl"} | {f"ssl - {name}" for name in BY_DEFAULT}
    assert {model for model, *_ in figures(run)} == measured
    assert "no SSL" not in capsys.readouterr().out


def test_the_recall_of_a_baseline_is_that_of_its_lists(run: Path) -> None:
    evaluate(run, k=[8], bootstrap=50, baselines=["content-knn"])
    tables = {side: pl.read_parquet(run / f"{side}.parquet") for side in SPLITS}
    counts = pl.read_parquet(run / "popularity.parquet")["count"].to_numpy()
    history = np.zeros((QUERIES, ITEMS))
    for side in ("train", "validation"):
        history[tables[side]["query_index"], tables[side]["item_index"]] = 1
    scores = history @ (np.arange(ITEMS)[:, None] % 5 == np.arange(ITEMS) % 5)  # items of a colour are equal
    hits = 0
    for query, item in tables["test"].select("query_index", "item_index").iter_rows():
        left = [i for i in range(ITEMS) if not history[query, i]]
        hits += item in sorted(left, key=lambda i: (-scores[query, i], -counts[i], i))[:8]
    found = figures(run)
    recall = found["content-knn", "all", "recall", 8]["value"]
    assert recall == pytest.approx(hits / len(tables["test"]))
    change = found["ssl - content-knn", "all", "recall", 8]["value"]
    assert change == pytest.approx(found["ssl", "all", "recall", 8]["value"] - recall)
    assert found["content-knn", "cold", "recall", 8]["value"] > 0
    assert ("ssl - content-knn", "all", "ndcg", 8) not in found


def test_without_baselines_the_catalogue_is_not_read(run: Path) -> None:
    evaluate(run, k=[5], bootstrap=10, baselines=["none"])
    entry = manifest.read(run)["stages"]["evaluate"]
    assert not {"features.parquet", "items.parquet", "queries.parquet"} & entry["inputs"].keys()
    assert entry["settings"]["baselines"] == []
    assert {model for model, *_ in figures(run) if " - " not in model} == {"most-popular", "no-ssl", "ssl"}


def test_new_queries_have_rows_of_their_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run, k=[5], bootstrap=10)
    assert "known-queries" not in capsys.readouterr().out
    tables = {side: pl.read_parquet(run / f"{side}.parquet") for side in SPLITS}
    known = tables["train"].filter(pl.col("query_index") < 3)
    publish(run, "prepare", tables | described(ITEMS, QUERIES) | {"train": known})
    publish(run, "compute-popularity", {"popularity": pl.read_parquet(run / "popularity.parquet")})
    for folder in ("", "no-ssl/"):
        stage = "export-embeddings" + (" --no-ssl" if folder else "")
        names = [f"{folder}{name}_embeddings" for name in ("item", "query")]
        publish(run, stage, {name: pl.read_parquet(run / f"{name}.parquet") for name in names})
    evaluate(run, k=[5], bootstrap=10)
    shown, found = capsys.readouterr().out, figures(run)
    sizes = [found["ssl", part, "recall", 5]["n"] for part in ("all", "known-queries", "new-queries")]
    assert sizes == [36, 9, 27]
    assert "note: 75 % of the test pairs are of queries without training interactions" in shown
    assert [line.split()[0] for line in shown.splitlines() if "queries " in line[:14]] == [
        *("known-queries", "new-queries")
    ]


@pytest.mark.parametrize(("width", "below"), [(100, 1), (120, 1), (140, 0)])
def test_the_table_fits_the_terminal_and_marks_the_best_of_a_row(
    run: Path, width: int, below: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.out, "width", width)
    evaluate(run, k=[5], bootstrap=10)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines if not line.startswith(("note: ", "serve ")))
    row = next(number for number, line in enumerate(lines) if line.startswith("all "))
    assert lines[row + below].count("[") == 2  # the intervals are below their figures where space is short
    frame = pl.read_parquet(run / "metrics.parquet")
    places = {(r["model"], r["slice"], r["metric"]): r for r in frame.iter_rows(named=True)}
    names = ["most-popular", "item-knn", "ease", "content-knn", "no-ssl", "ssl"]
    values = [places[name, "all", "recall"]["value"] for name in names]
    best = metrics_table._best(places, names, "all")
    assert {values[place - 1] for place in best} == {max(values)}
    assert metrics_table._best({("a", "all", "recall"): {"value": 0.0}}, ["a"], "all") == set()


def test_an_evaluated_folder_shows_its_table_again_without_work(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run, bootstrap=10)
    first = capsys.readouterr()
    evaluate(run, bootstrap=10)
    second = capsys.readouterr()
    assert second.out == first.out
    assert "up to date" in second.err


def test_an_empty_test_is_refused(run: Path) -> None:
    tables = {side: pl.read_parquet(run / f"{side}.parquet") for side in SPLITS}
    publish(run, "prepare", tables | described(ITEMS, QUERIES) | {"test": tables["test"].clear()})
    with pytest.raises(InputError, match=r"test\.parquet: empty"):
        evaluate(run)


def test_a_changed_vector_file_is_refused(run: Path) -> None:
    path = run / "item_embeddings.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"run: ssl-recall export-embeddings"):
        evaluate(run)


def test_what_makes_a_table_hard_to_believe_is_said_under_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run, k=[5])
    shown = capsys.readouterr().out
    assert "note: 36 test pairs are few: read the intervals, not the figures" in shown
    assert "note: 5 of 40 items are a tenth of the catalogue or more" in shown


@pytest.mark.parametrize(("popular", "pairs", "k", "notes"), [(0.1, 9999, 10, 0), (0.2, 9999, 10, 1), (0.1, 9, 50, 2)])
def test_a_sound_table_has_no_notes(popular: float, pairs: int, k: int, notes: int) -> None:
    nothing = {("most-popular", part, "recall"): {"value": None, "n": 0} for part in metrics_table.SLICES}
    figures = nothing | {
        ("most-popular", "all", "recall"): {"value": popular, "n": pairs},
        ("most-popular", "all", "coverage"): {"n": 200},
        ("ssl", "all", "recall"): {"value": 0.2},
    }
    found = list(metrics_table.notes(figures, ["most-popular", "ssl"], k))
    assert len(found) == notes
    assert any(note.startswith("most popular recalls as much") for note in found) == (popular == 0.2)


def test_a_slice_that_loses_by_ssl_and_one_of_few_pairs_are_spoken_of() -> None:
    names = ["most-popular", "no-ssl", "ssl"]
    figures = {(name, part, "recall"): {"value": 0.2, "n": 9999} for name in names for part in metrics_table.SLICES}
    figures["most-popular", "all", "recall"] = {"value": 0.1, "n": 9999}
    figures["most-popular", "cold", "recall"] = {"value": 0.0, "n": 60}
    figures["most-popular", "all", "coverage"] = {"n": 10**6}
    ends = {"all": 0.01, "head": -0.001, "tail": 0.0, "cold": None, "warm-tail": -0.1}
    figures |= {
        ("ssl - no-ssl", part, "recall"): {"value": high, "low": high, "high": high, "seeds": 3}
        for part, high in ends.items()
    }
    lost, few = metrics_table.notes(figures, names, 50)
    assert lost.startswith("with SSL less is recalled of head and warm-tail: ")
    assert few == "60 cold test pairs are few: read the intervals, not the figures"


def test_a_baseline_that_has_gone_is_spoken_of(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "no-ssl" / "item_embeddings.parquet").unlink()
    evaluate(run, k=[5], config=Path("mine.toml"))
    output = capsys.readouterr()
    assert "no-ssl/item_embeddings.parquet: missing, and left out" in output.err
    assert f"run: ssl-recall export-embeddings --no-ssl --config mine.toml --run {run}" in output.err
    assert "no SSL" not in output.out


def test_a_baseline_of_other_settings_is_left_out_and_spoken_of(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = manifest.read(run)
    for stage, width, name in (("train", 8, "training.parquet"), ("train --no-ssl", 64, "no-ssl/training.parquet")):
        own = {"width": width, "ssl": True, "ssl_weight": 1, "logq": width > 8, "hidden": [width, 8]}
        entry = {"settings": own, "inputs": {}}
        told["stages"][stage] = entry | {"outputs": {name: {"sha256": "x"}}, "version": "0"}
    (run / "manifest.json").write_bytes(manifest.sealed(told))
    evaluate(run, k=[5])
    output = capsys.readouterr()
    said = (
        "trained with other settings (hidden [64, 8] and [8, 8], logq True and False, width 64 and 8) and is left out"
    )
    assert said in output.err
    assert f"train --no-ssl --hidden 8 --hidden 8 --no-logq --width 8 --run {run}, then" in output.err
    assert "no SSL" not in output.out
    told = manifest.read(run)
    told["stages"]["train --no-ssl"]["settings"] = told["stages"]["train"]["settings"]
    (run / "manifest.json").write_bytes(manifest.sealed(told))
    evaluate(run, k=[5], force=True)
    assert "no SSL" in capsys.readouterr().out
