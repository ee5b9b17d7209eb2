"""export-embeddings on a small trained model: the catalogue, new items, and the queries."""

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stages.run_folder import manifest
from stages.terminal.errors import ArtifactError, InputError, SettingsError

from ..jobs import build_views, compute_mi, compute_popularity, export_embeddings, prepare, train

WIDTH = 4
FILES = ("item_embeddings.parquet", "query_embeddings.parquet")
FEATURES = ["tags=multi-valued,separator=|,max_values=2", "size=numeric,nan=missing,buckets=3", "a=b,c=categorical"]


def catalogue() -> pl.DataFrame:
    draw = random.Random(1)
    return pl.DataFrame(
        {
            "film": [f"film {n:02}" for n in range(30)],
            "colour": [draw.choice(["red", "blue", None]) for _ in range(30)],
            "year": [1990 + n % 5 for n in range(30)],
            "tags": ["|".join(draw.sample("wxyz", draw.randrange(4))) for _ in range(30)],
            "size": [draw.choice([float("nan"), draw.random()]) for _ in range(30)],
            "picture": pl.Series([[draw.random(), 1.0] for _ in range(30)], dtype=pl.Array(pl.Float32, 2)),
            "a=b,c": ["p", "q", "r"] * 10,
            "secret": [f"s{n}" for n in range(30)],
        }
    ).sample(fraction=1, shuffle=True, seed=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with all stages up to export-embeddings done."""
    folder = tmp_path_factory.mktemp("trained")
    draw = random.Random(2)
    pairs = sorted({(draw.randrange(20), f"film {draw.randrange(20):02}") for _ in range(200)})
    pl.DataFrame(pairs, schema=["query_id", "film"], orient="row").write_parquet(folder / "log.parquet")
    catalogue().write_parquet(folder / "catalogue.parquet")
    run = folder / "run"
    declared = [*FEATURES, "secret=exclude"]
    prepare(folder / "log.parquet", folder / "catalogue.parquet", run=run, item_id="film", item_features=declared)
    compute_popularity(run)
    compute_mi(run)
    build_views(run, variants=2)
    train(
        run, epochs=1, batch_size=64, ssl_batch_size=16, ssl_warmup_steps=3, embedding_width=4, hidden=[8], width=WIDTH
    )
    export_embeddings(run)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may change."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def new(run: Path, items: pl.DataFrame, **settings: Any) -> pl.DataFrame:
    items.write_parquet(run / "new.parquet")
    export_embeddings(run, items=run / "new.parquet", **settings)
    return pl.read_parquet(run / "new_item_embeddings.parquet")


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def vectors(frame: pl.DataFrame) -> np.ndarray:
    return frame["embedding"].to_numpy()


def test_every_item_and_query_has_a_unit_vector_in_the_order_of_its_table(trained: Path) -> None:
    for name, table, column in zip(FILES, ("items", "queries"), ("item_id", "query_id"), strict=True):
        found = pl.read_parquet(trained / name)
        assert found.columns == [column, "embedding"]
        assert found["embedding"].dtype == pl.Array(pl.Float32, WIDTH)
        assert found[column].equals(pl.read_parquet(trained / f"{table}.parquet")[column])
        np.testing.assert_allclose(np.linalg.norm(vectors(found), axis=1), 1, atol=1e-6)
    assert len(np.unique(vectors(pl.read_parquet(trained / FILES[0])), axis=0)) == 30  # no two films are alike


def test_a_second_run_does_nothing_and_a_forced_one_writes_the_same_bytes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(run)
    export_embeddings(run)
    assert "up to date" in capsys.readouterr().err
    export_embeddings(run, force=True)
    assert digests(run) == before
    assert "30 items, 20 queries, width 4" in capsys.readouterr().err


def test_without_queries_their_file_is_not_written(run: Path) -> None:
    for name in FILES:
        (run / name).unlink()
    export_embeddings(run, query_vectors=False)
    assert (run / FILES[0]).exists()
    assert not (run / FILES[1]).exists()


def test_the_catalogue_as_new_items_has_the_vectors_of_the_catalogue(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(run)
    shuffled = catalogue().sample(fraction=1, shuffle=True, seed=7)
    shuffled = shuffled.select(pl.lit("more").alias("extra"), *reversed(shuffled.columns))
    found = new(run, shuffled)
    assert found["item_id"].equals(shuffled["film"].alias("item_id"))
    assert "not in the vocabulary" not in capsys.readouterr().err
    exported = pl.read_parquet(run / FILES[0])
    np.testing.assert_allclose(vectors(found.sort("item_id")), vectors(exported), atol=1e-6)
    assert digests(run) == before


def test_new_items_have_the_ids_in_the_column_that_the_catalogue_has_them_in(run: Path) -> None:
    told = json.loads((run / "manifest.json").read_text())
    told["stages"]["prepare"]["settings"] |= {"items_id": "film", "item_id": "of the log"}
    (run / "manifest.json").write_bytes(manifest.sealed(told))
    assert new(run, catalogue())["item_id"].equals(catalogue()["film"].alias("item_id"))


def test_a_csv_file_of_the_catalogue_has_its_vectors_too(run: Path) -> None:
    items = catalogue().with_columns(pl.col("size").fill_nan(None))
    picture = items.select("film", "picture")
    items.drop("picture").write_csv(run / "new.csv")
    with pytest.raises(InputError, match="no column 'picture'"):  # a CSV file cannot store vectors
        export_embeddings(run, items=run / "new.csv")
    read_back = pl.read_csv(run / "new.csv").join(picture, on="film")
    np.testing.assert_allclose(
        vectors(new(run, read_back).sort("item_id")), vectors(pl.read_parquet(run / FILES[0])), atol=1e-6
    )


def test_a_new_item_is_where_an_item_without_interactions_and_with_its_features_is(run: Path) -> None:
    unseen = pl.read_parquet(run / "items.parquet").filter(item_id__code=0)["item_id"][0]
    seen = pl.read_parquet(run / "items.parquet").filter(pl.col("item_id__code") > 0)["item_id"][0]
    items = catalogue()
    twins = pl.concat([items.filter(film=name).with_columns(film=pl.lit(f"new {name}")) for name in (unseen, seen)])
    found = new(run, twins)
    exported = dict(pl.read_parquet(run / FILES[0]).iter_rows())
    np.testing.assert_allclose(found["embedding"][0].to_numpy(), exported[unseen], atol=1e-6)
    assert np.abs(found["embedding"][1].to_numpy() - np.array(exported[seen])).max() > 1e-4  # its id vector was trained


def test_a_value_that_training_never_saw_is_unknown_and_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = (
        catalogue()
        .head(3)
        .with_columns(
            film=pl.Series(["n1", "n2", "n3"]),
            colour=pl.Series(["mauve", "[bold]ochre", "red"]),
            tags=pl.Series(["w|q", "", "x"]),
            size=pl.lit(1e9),
        )
    )
    found = new(run, items)
    errors = capsys.readouterr().err
    assert "2 values of colour are not in the vocabulary; taken as unknown" in errors
    assert "1 values of tags are not in the vocabulary; taken as unknown" in errors
    assert errors.count("vocabulary") == 2
    np.testing.assert_allclose(np.linalg.norm(vectors(found), axis=1), 1, atol=1e-6)
    again = new(run, items.with_columns(colour=pl.Series(["teal", "x", "red"])))
    np.testing.assert_array_equal(vectors(found), vectors(again))  # every unknown value is the same


def test_a_column_without_any_value_is_missing_whatever_its_type(run: Path) -> None:
    items = catalogue().head(4)
    missing = ("colour", "size", "tags")
    typed = items.with_columns(pl.lit(None, items.schema[name]).alias(name) for name in missing)
    typed = typed.with_columns(picture=pl.lit(None, pl.Array(pl.Float32, 2)))
    found = new(run, typed)
    untyped = typed.with_columns(pl.lit(None, pl.Null).alias(name) for name in (*missing, "picture"))
    np.testing.assert_array_equal(vectors(found), vectors(new(run, untyped)))
    as_text = typed.with_columns(size=pl.lit(None, pl.String), picture=pl.lit(None, pl.List(pl.Float64)))
    np.testing.assert_array_equal(vectors(found), vectors(new(run, as_text)))


@pytest.mark.parametrize("name", ["01", "1", "2020-01-01", "true", "1.50"])
def test_ids_of_a_csv_file_are_text_as_those_of_the_catalogue_are(tmp_path: Path, name: str) -> None:
    colours = [f"i{n},{'red' if n % 2 else 'blue'}\n" for n in range(6)]
    pairs = [f"u{query},i{(query + step) % 5}\n" for query in range(8) for step in (0, 2)]
    tables = {"items": ["item_id,colour\n", *colours], "log": ["query_id,item_id\n", *pairs]}
    tables["more"] = ["item_id,colour\n", f"{name},red\n"]
    for table, lines in tables.items():
        (tmp_path / f"{table}.csv").write_text("".join(lines))
    run = tmp_path / "run"
    prepare(tmp_path / "log.csv", tmp_path / "items.csv", run=run, validation_share=0.2)
    compute_popularity(run)
    train(run, ssl=False, epochs=1, batch_size=8, embedding_width=2, hidden=[2], width=2)
    export_embeddings(run, items=tmp_path / "more.csv", ssl=False)
    found = pl.read_parquet(run / "no-ssl/new_item_embeddings.parquet")
    assert found["item_id"].to_list() == [name]


def test_ids_of_another_type_than_the_catalogues_are_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"ID_TYPES: .* film is of type Int64 but String in the catalogue"):
        new(run, catalogue().head(2).with_columns(film=pl.Series([1, 2])))


def test_the_output_goes_where_the_user_says(run: Path, tmp_path: Path) -> None:
    catalogue().head(2).write_parquet(tmp_path / "two.parquet")
    export_embeddings(run, items=tmp_path / "two.parquet", output=tmp_path / "deep/vectors.parquet")
    assert pl.read_parquet(tmp_path / "deep/vectors.parquet").height == 2
    assert not (run / "new_item_embeddings.parquet").exists()


def test_new_items_that_cannot_be_encoded_are_refused_with_every_problem(run: Path) -> None:
    items = catalogue().head(3)
    with pytest.raises(InputError, match=r"NO_COLUMN: --items .*new\.parquet: 2 problems") as caught:
        new(run, items.rename({"colour": "color"}).drop("year"))
    assert "no column 'colour'; did you mean a column named 'color'?" in str(caught.value)
    assert caught.value.code == 3
    bad = items.with_columns(film=pl.lit("x"), size=pl.lit("big"), picture=pl.lit(None, pl.Array(pl.Float32, 2)))
    with pytest.raises(InputError, match="2 problems") as caught:
        new(run, bad)
    assert "DUP_ITEM_ID: 1 of the film stand in several rows, such as ['x']" in str(caught.value)
    assert "column 'size' is of type String, no number" in str(caught.value)
    holes = items.with_columns(picture=pl.Series([[1.0, float("nan")]] * 3, dtype=pl.Array(pl.Float32, 2)))
    with pytest.raises(InputError, match="NAN_FEATURE"):
        new(run, holes)
    with pytest.raises(InputError, match=r"NULL_ID: .*film is null in 3 rows"):
        new(run, items.with_columns(film=pl.lit(None, pl.String)))
    with pytest.raises(InputError, match="'picture' holds vectors of 3 numbers, the model was trained on 2"):
        new(run, items.with_columns(picture=pl.Series([[1.0] * 3] * 3, dtype=pl.Array(pl.Float32, 3))))
    assert not (run / "new_item_embeddings.parquet").exists()


def test_no_new_items_have_no_vectors(run: Path) -> None:
    found = new(run, catalogue().clear())
    assert (found.height, found["embedding"].dtype) == (0, pl.Array(pl.Float32, WIDTH))


def test_one_new_item_is_enough(run: Path) -> None:
    assert new(run, catalogue().head(1)).height == 1


def test_without_a_model_the_command_that_makes_it_is_named(run: Path) -> None:
    with pytest.raises(ArtifactError, match="run: ssl-recall train --no-ssl"):
        export_embeddings(run, ssl=False)
    with pytest.raises(SettingsError, match=r"NO_FILE: --items .*none\.parquet: no Parquet or CSV file there"):
        export_embeddings(run, items=run / "none.parquet")


def test_an_output_without_items_is_refused_not_ignored(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--output needs --items"):
        export_embeddings(tmp_path / "run", output=tmp_path / "vectors.parquet")


@pytest.mark.parametrize("name", ["new.parquet", "run/items.parquet", "run/no-ssl/training.parquet", "vectors.csv"])
def test_the_vectors_of_new_items_do_not_overwrite_what_is_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "new.parquet").write_bytes(b"mine")
    with pytest.raises(SettingsError, match="OUTPUT: --output"):
        export_embeddings(tmp_path / "run", items=tmp_path / "new.parquet", output=tmp_path / name)
    assert (tmp_path / "new.parquet").read_bytes() == b"mine"
